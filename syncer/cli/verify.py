"""``syncer verify``: a bundle, its signature, and a registry that should have all of it."""

from __future__ import annotations

from pathlib import Path

import click
from anyio import to_thread

from syncer.api.verify import VerifyResult
from syncer.api.verify import verify as verify_bundle
from syncer.bundle.signature import verify_file
from syncer.cli.command import option
from syncer.cli.job import run
from syncer.cli.options import (
    ConnectionOptions,
    LoginOptions,
    OutputOptions,
    bundle_option,
    map_option,
    registry_option,
)
from syncer.cli.output import print_json
from syncer.cli.settings import registry_settings
from syncer.errors import Exit
from syncer.naming import NameMapping
from syncer.registry import RegistryAddress
from syncer.report import human_bytes, human_seconds


def verify(
    *,
    file: Path = bundle_option(),
    public_key: Path | None = option(
        "Also check the bundle's signature with this key or certificate (PEM).", metavar="FILE"
    ),
    signature: Path | None = option("With --public-key. Default: BUNDLE.sig.bin", metavar="FILE"),
    registry: RegistryAddress | None = registry_option("Also check that all of it is in this registry."),
    map: NameMapping = map_option("As it was pushed with."),  # noqa: A002  the word of the command line
    login: LoginOptions,
    connection: ConnectionOptions,
    output: OutputOptions,
) -> None:
    """Hash a bundle again and account for every byte of it; check its signature, and that a registry has it all."""

    async def job() -> Exit:
        if public_key:
            await to_thread.run_sync(verify_file, file, public_key, signature)
        result = await verify_bundle(
            file,
            registry,
            mapping=map,
            settings=registry_settings(connection, login, registry),
            workers=connection.concurrency,
        )
        print_check(result, output, signed=public_key is not None)
        return result.exit

    run(job)


def print_check(result: VerifyResult, options: OutputOptions, *, signed: bool = False) -> None:
    """Print what a verification found; ``signed`` says that there was a signature, and that it is good."""
    if options.json:
        print_json(result.to_json() | {"signed": signed})
        return
    check = result.check
    lines = [
        "-" * 29,
        "Verify Summary",
        "-" * 29,
        f"bundle {result.bundle} is sound: every byte of the file is accounted for",
        f"images:  {check.images} ({check.manifests:,} manifests, {check.blobs:,} blobs, {human_bytes(check.bytes)})",
    ]
    if signed:
        lines.append("signature: good")
    if check.unreferenced:
        lines.append(f"unused:  {len(check.unreferenced)} pieces of content that no image needs")
    if result.registry:
        state = f"lacks {len(result.lacking)} of" if result.lacking else "has all"
        lines.append(f"registry {result.registry} {state} {result.checked:,} names and pieces of content")
        lines += [f"lacking: {lacking.name}: {lacking.problem}" for lacking in result.lacking]
    click.echo("\n".join([*lines, f"time:    {human_seconds(result.seconds)}"]))
