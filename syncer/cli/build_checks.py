"""What flags of a build exclude each other, and which cannot be met: said before anything is asked of anybody."""

from __future__ import annotations

from collections.abc import Mapping

import click

from syncer.cli.options import BuildOptions, BuildType, ServiceOptions
from syncer.errors import UsageError

_HINT = "name the images that you need with --image, --images-file or --metadata-file"
_COMPLIANCE = "INCLUDE_COMPLIANCE_IMAGES"
_TRUE = frozenset({"1", "t", "true", "yes", "on"})


def check_build(options: BuildOptions, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for flags that contradict each other or ask for what is not public; note the rest."""
    _refuse_unpublished(options.services, environ)
    content, bundle, defining = options.content, options.bundle, options.defining
    if defining.lock and not defining.metadata_only:
        raise UsageError("--lock records digests in a definition", hint="give it with --metadata-only")
    if defining.metadata_only and options.dry.dry_run:
        raise UsageError("--metadata-only writes a file, and --dry-run writes none", hint="give one of them")
    if defining.custom_ui and defining.download_cluster_config_only:
        raise UsageError("--custom-ui goes into a bundle, and --download-cluster-config-only makes none")
    _check_remote(options)
    if bundle.private_key:
        from syncer.bundle.signature import check_private_key  # noqa: PLC0415  slow to import

        check_private_key(bundle.private_key)
    if bundle.arch and bundle.referrers:
        _note("--arch takes one platform out of each index: signatures of the index itself do not apply to it")
    if content.profiles and options.services.include_service_images is None:
        _note("Palette's own service images are not included, since their list is not public")


def _check_remote(options: BuildOptions) -> None:
    """Raise ``UsageError`` for a registry that is missing, or has no use, and for what a remote build cannot do."""
    remote, login = options.remote, options.login
    if remote.registry is None and (remote.push or remote.build_type is BuildType.REMOTE):
        raise UsageError("it is not said where to push to", hint="name it with --registry")
    if remote.registry and not remote.push and remote.build_type is BuildType.LOCAL:
        raise UsageError("--registry is for --push and --build-type remote", hint="add --push")
    if remote.registry is None and (login.username or login.password_stdin or remote.map):
        raise UsageError("--username, --password-stdin and --map are about the registry that --registry names")
    of_files = options.bundle.private_key or options.bundle.allow_partial or options.dry.dry_run
    if remote.build_type is BuildType.REMOTE and of_files:
        raise UsageError(
            "a remote build makes no file, so there is none to sign, to publish in part, or to foresee",
            hint="foresee it with syncer plan, and --registry",
        )


def _refuse_unpublished(services: ServiceOptions, environ: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for whatever asks for content whose list is not public."""
    if services.include_service_images:
        raise _refusal("--include-service-images", "Palette's service images")
    if services.include_core_palette_images_only:
        raise _refusal("--include-core-palette-images-only", "Palette's core images")
    if services.fips:
        raise _refusal("--fips", "Palette's FIPS service images")
    if environ.get(_COMPLIANCE, "").strip().lower() in _TRUE:
        raise _refusal(f"{_COMPLIANCE}=true", "Palette's images for compliance scans")


def _refusal(flag: str, what: str) -> UsageError:
    return UsageError(f"{flag} cannot be done: which images are {what} is not public", hint=_HINT)


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
