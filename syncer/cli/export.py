"""``syncer export``: images out of a bundle, as files that other tools take."""

from __future__ import annotations

from pathlib import Path

import click

from syncer.api.export import ExportFile, ExportFormat
from syncer.api.export import export as export_images
from syncer.bundle import GivenName
from syncer.cli.command import flag, option, options
from syncer.cli.job import run
from syncer.cli.options import arch_option, as_option
from syncer.cli.output import print_json, warn
from syncer.errors import Exit
from syncer.oci import Platform, Reference


def export(
    *,
    bundle: Path = option("The bundle, or an archive of another tool.", "-b", required=True, metavar="BUNDLE"),
    format: ExportFormat = option(  # noqa: A002  the word of the command line
        "For docker, podman and skopeo; for containerd, k3s and RKE2 as well; the same as a directory.",
        default=ExportFormat.OCI_ARCHIVE,
    ),
    image: tuple[Reference, ...] = options(
        "Only this image; repeatable. Charts are named by it too.", "-i", metavar="REF", parse=Reference.parse
    ),
    output: Path = option("The file, or for oci-dir the directory, to write.", "-o", required=True, metavar="PATH"),
    arch: Platform | None = arch_option(),
    force: bool = flag("Replace a file that is there."),
    as_name: GivenName | None = as_option(),
    json: bool = flag("Print what was written as one JSON document."),
) -> None:
    """Write images of a bundle as a file that other tools load.

    docker load -i FILE, podman load -i FILE, skopeo copy docker-archive:FILE:NAME, ctr images import FILE; k3s and RKE2
    load what lies in their directory of images.
    """
    written = output.absolute()
    file = ExportFile(path=output, format=format, force=force, platform=arch)

    async def job() -> Exit:
        result = await export_images(bundle, file, images=image, given=as_name, warn=warn)
        if json:
            print_json(result.to_json())
        else:
            click.echo(f"{len(result.images)} images exported to {written}")
        return Exit.OK

    run(job, farewell=None)
