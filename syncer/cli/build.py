"""``syncer build``."""

from __future__ import annotations

from syncer.cli.build_options import (
    BuildOptions,
    BundleOptions,
    ContentOptions,
    DefinitionOptions,
    RemoteOptions,
    ServiceOptions,
)
from syncer.cli.options import ConnectionOptions, DryRunOptions, LoginOptions, OutputOptions, UploadOptions
from syncer.cli.run import run


def build(
    *,
    content: ContentOptions,
    bundle: BundleOptions,
    defining: DefinitionOptions,
    remote: RemoteOptions,
    services: ServiceOptions,
    dry: DryRunOptions,
    login: LoginOptions,
    connection: ConnectionOptions,
    uploading: UploadOptions,
    telling: OutputOptions,
) -> None:
    """Download images and charts into one bundle file.

    If an image fails, the others stay in NAME.tar.zst.partial and the same command goes on with them.
    """
    from syncer.cli.building import Building  # noqa: PLC0415  imported where used: `syncer version` stays quick

    options = BuildOptions(
        content=content,
        bundle=bundle,
        defining=defining,
        remote=remote,
        services=services,
        dry=dry,
        login=login,
        connection=connection,
        uploading=uploading,
        telling=telling,
    )
    run(Building(options=options).carry_out)
