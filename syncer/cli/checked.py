"""How a verification is told."""

from __future__ import annotations

import typer

from syncer.api.verify import VerifyResult
from syncer.cli.options import OutputOptions
from syncer.cli.reporting import print_json
from syncer.report import human_bytes, human_seconds


def tell_check(result: VerifyResult, options: OutputOptions, *, signed: bool = False) -> None:
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
    typer.echo("\n".join([*lines, f"time:    {human_seconds(result.seconds)}"]))
