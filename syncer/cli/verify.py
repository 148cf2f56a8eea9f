"""``syncer verify``: a bundle, its signature, and a registry that should have all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from anyio import to_thread
from msgspec import Struct, structs

from syncer.api.bundles import bundle_name
from syncer.api.definitions import lacking
from syncer.api.verify import VerifyResult
from syncer.api.verify import verify as verify_bundle
from syncer.bundle import BundleCheck, BundleUrl, GivenName, shown
from syncer.cli.command import option, options, takes
from syncer.cli.fleet import SiteOptions, run_fleet
from syncer.cli.job import LONGER_TO_STOP, cause_of, code_of, code_of_signal, run
from syncer.cli.options import (
    ONE_REGISTRY,
    ConnectionOptions,
    LoginOptions,
    OutputOptions,
    as_option,
    bundle_option,
    map_option,
)
from syncer.cli.output import metrics_writer, print_json, require_outputs, tell_waits, warn
from syncer.cli.parser import Word
from syncer.cli.settings import everyone_of, known_secrets, registry_settings
from syncer.errors import Exit, InvalidBundle, SyncerError, UsageError, VerificationError
from syncer.files import reading
from syncer.naming import NameMapping
from syncer.oci import Digest, Reference
from syncer.registry import RegistryAddress
from syncer.report import foreign_layers, human_bytes, human_seconds
from syncer.report.summary import quantity, write_report

_GAPS_SHOWN = 20  # lines about what a registry lacks
_MUCH = 50  # padding is worth a copy from one part in so many of a file on


@takes(file=Word(metavar="FILE"), registry=ONE_REGISTRY)
def verify(
    *,
    file: Path | BundleUrl = bundle_option(),
    public_key: Path | None = option(
        "Also check the bundle's signature with this key or certificate (PEM).", metavar="FILE"
    ),
    signature: Path | None = option("The signature. Default: BUNDLE.sig.bin.", metavar="FILE"),
    have: tuple[Path, ...] = options(
        "Also check that a delta was made with this list. Repeatable.", metavar="FILE", parse=Path, fixed=True
    ),
    to: SiteOptions,
    map: NameMapping = map_option("The rules that it was pushed with."),  # noqa: A002  the word of the command line
    as_name: GivenName | None = as_option(),
    login: LoginOptions,
    connection: ConnectionOptions,
    output: OutputOptions,
) -> None:
    """Check a bundle, and that registries have all of it.

    Every byte of the file is accounted for, and hashed where it has a digest.

    Examples:
        syncer verify edge.tar.zst
        syncer verify edge.tar.zst 10.10.254.254:8000/images
        syncer verify edge.tar.zst --public-key public.pem
        syncer verify edge.tar.zst --targets-file sites.yaml

    More: docs/fleet.md
    """
    settings = registry_settings(connection, login, to.single, everyone=everyone_of(file, to.registry))

    if have and to.is_fleet:
        raise UsageError("--have is about the file alone", hint="check it first, and then what is at the sites")

    async def check_signature() -> None:
        if public_key:
            if isinstance(file, BundleUrl):
                raise UsageError("a signature is checked with the whole file at hand", hint="download the bundle first")
            from syncer.bundle.signature import verify_file  # noqa: PLC0415  cryptography is slow to import

            await to_thread.run_sync(verify_file, file, public_key, signature)

    async def verify_all() -> Exit:
        runner = to.runner(connection)
        fleet = to.fleet(login, settings, map)
        options = to.options(connection)
        await check_signature()
        return await run_fleet("verify", file, fleet, options, output, given=as_name, runner=runner)

    async def job() -> Exit:
        with _written_down(file, to.registry, output) as written:
            await check_signature()
            result = await verify_bundle(
                file,
                to.single,
                mapping=map,
                given=as_name,
                settings=settings,
                concurrency=connection.workers,
                emit=tell_waits(output, known_secrets(settings)),
            )
            _check_lists(result, have)
            result = structs.replace(result, signed=public_key is not None)
            written.append(result)
        print_check(result, output)
        return result.exit

    if to.is_fleet:
        run(verify_all, seconds_to_stop=LONGER_TO_STOP)
    else:
        run(job)


@contextmanager
def _written_down(
    file: Path | BundleUrl, registry: Sequence[RegistryAddress], output: OutputOptions
) -> Iterator[list[VerifyResult]]:
    """Write the files that the options name when the block has ended, which puts the result into the list.

    Of a check that fails, or that is stopped, the report has what is known of that.
    """
    require_outputs(output)
    results: list[VerifyResult] = []
    began = time.monotonic()
    failure: BaseException | None = None
    try:
        yield results
    except BaseException as error:
        failure = error
        raise
    finally:
        if output.report and (failure or results):
            place = str(registry[0]) if registry else None
            seconds = time.monotonic() - began
            try:
                write_report(output.report, _Failed(file, place, failure, seconds) if failure else results[0])
            except SyncerError as unwritten:
                if failure is None:
                    raise
                warn(str(unwritten))
        if output.metrics_file:
            write = metrics_writer()
            job = write.Job(profile=bundle_name(file), command="verify", targets=tuple(map(str, registry)))
            is_good = bool(results) and results[0].exit is Exit.OK
            seconds = time.monotonic() - began
            write.write_check_metrics(output.metrics_file, job, seconds=seconds, succeeded=is_good)


class _Failed(Struct, frozen=True):
    """A check that came to no result."""

    file: Path | BundleUrl
    registry: str | None
    failure: BaseException
    seconds: float

    def to_json(self) -> dict[str, Any]:
        error = cause_of(self.failure)
        told = str(error) if isinstance(error, SyncerError) else "it was stopped before its end"
        return {
            "kind": "verify",
            "exit_code": int(code_of_signal() or code_of(error)),
            "error": told,
            "findings": list(error.findings) if isinstance(error, InvalidBundle) else [],
            "bundle": str(self.file),
            "registry": self.registry,
            "seconds": round(self.seconds, 3),
        }


def _check_lists(result: VerifyResult, files: Sequence[Path]) -> None:
    """Raise ``VerificationError`` unless the delta was made with exactly these lists, and ``UsageError`` for none."""
    if not files:
        return
    given = {str(Digest.of(_read(file))): file for file in files}
    made_with = {witness.digest for witness in result.check.lists}
    for digest, file in given.items():
        if digest not in made_with:
            raise VerificationError(
                f"{result.bundle} was not made with {file}, or the list was altered since",
                hint="its assumed.json has the digests and dates of the lists that it was made with",
            )
    if left := made_with - given.keys():
        raise VerificationError(f"{result.bundle} was made with {quantity(len(left), 'list')} more than those given")


def _read(file: Path) -> bytes:
    with reading(file):
        return file.read_bytes()


def print_check(result: VerifyResult, options: OutputOptions) -> None:
    """Print what a verification found, also as JSON; when it is to be quiet, of a failure alone, on standard error."""
    if options.json:
        print_json(result.to_json())
        if not options.quiet:
            return
    if options.quiet and result.exit is Exit.OK:
        if result.missing:
            warn(lacking(str(result.bundle), result.missing, result.wanted))
        return
    lines = [*_bundle_lines(result), *_standing(result)]
    click.echo("\n".join([*lines, f"time:    {human_seconds(result.seconds)}"]), err=options.talks_on_stderr)
    if result.missing:
        click.echo("hint: build the bundle again with --force, to have what it lacks", err=True)
    if result.check.padding * _MUCH > result.check.file_size:
        copy = f"syncer copy --source {result.bundle} --destination OTHER"
        click.echo(f"hint: {copy} writes the bundle without the padding", err=True)
    if result.lacking:
        click.echo(f"hint: {_mend(result)}", err=True)
    for hint in {doubt.hint: None for doubt in result.unknown if doubt.hint}:
        click.echo(f"hint: {hint}", err=True)


def _bundle_lines(result: VerifyResult) -> Iterator[str]:
    """What the file holds, and what of it is not taken."""
    check = result.check
    yield "-" * 29
    yield "Verify Summary"
    yield "-" * 29
    yield f"bundle {result.bundle} is sound: every byte of the file is accounted for"
    content = f"{quantity(check.manifests, 'manifest')}, {quantity(check.blobs, 'blob')}, {human_bytes(check.bytes)}"
    yield f"images:  {check.images} ({content})"
    if not check.images:
        yield "nothing: it holds no image"
    if result.missing:
        yield f"missing: {lacking('the bundle', result.missing, result.wanted)}"
    yield from _apart_from_content(check)
    if check.nameless:
        yield f"unnamed: {len(check.nameless)} images without a full name, not taken: {shown(check.nameless)}"
    if check.extras:
        yield f"extras:  {len(check.extras)} members beside the layout, not read: {shown(check.extras)}"
    for note in check.notes:
        yield f"note:    {note}"
    if not check.has_digests:
        yield "digests: it carries none of index.json and bundle-definition.yaml, which may have been altered"
    if result.signed:
        yield "signature: good"
    if check.unreferenced:
        yield f"unused:  {len(check.unreferenced)} pieces of content that no image needs"


def _apart_from_content(check: BundleCheck) -> Iterator[str]:
    """The parts of the file that are no content, and the content that is not in it."""
    if check.padding:
        share = (
            f"{human_bytes(check.padding)} of {human_bytes(check.file_size)} ({check.padding / check.file_size:.1%})"
        )
        yield f"padding: {share}, in the place of content that was not wanted in the end"
    if check.assumed:
        size = human_bytes(check.bytes_assumed)
        yield f"assumed: {quantity(check.assumed, 'piece')} of content, {size}, assumed at the target"
    if check.foreign:
        yield f"foreign: {foreign_layers(check.foreign, check.bytes_foreign)}, not in the bundle"


def _standing(result: VerifyResult) -> Iterator[str]:
    """What the registry has and has not, and one line for each cause for which it did not tell."""
    if not result.registry:
        return
    every = f"{result.checked:,} names and pieces of content"
    if result.lacking:
        yield f"registry {result.registry} lacks {len(result.lacking):,} of {every}"
    elif not result.unknown:
        yield f"registry {result.registry} has all {every}"
    if result.unknown:
        untold = sum(len(doubt.names) for doubt in result.unknown)
        yield f"registry {result.registry} did not tell of {untold:,} of {every}"
    for gap in result.lacking[:_GAPS_SHOWN]:
        yield f"lacking: {gap.name}: {gap.problem}"
    if left := len(result.lacking[_GAPS_SHOWN:]):
        yield f"         and {left:,} more, all of which --json lists"
    for doubt in result.unknown:
        yield f"unknown: {doubt.names[0]}{_and_more(doubt.names)}: {doubt.problem}"


def _mend(result: VerifyResult) -> str:
    command = f"syncer push --file {result.bundle} --registry {result.registry} --recheck"
    return f"{command} sends what is lost, also below tags that are right (give it the same --map)"


def _and_more(names: Sequence[Reference]) -> str:
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""
