"""Command lines as scripts write them: values of each kind, flags with and without values, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio
import click
import pytest

from syncer.cli.command import argument, flag, make_command, option, options, takes
from syncer.cli.parser import Word
from syncer.errors import UsageError
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens


class Color(StrEnum):
    RED = "red-ish"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    color: Color = option("A word.", default=Color.BLUE)
    near: Path | None = option("A path.")
    far: tuple[Path, ...] = options("Paths.", metavar="PATH")


def called(*words: str) -> dict[str, Any]:
    """The arguments that a function is called with for these words."""
    seen: dict[str, Any] = {}

    def function(
        *,
        place: str = argument("A place.", metavar="PLACE"),
        count: int = option("A number.", "-c", default=3, min=1, max=9),
        wait: float = option("Seconds.", default=1.5, min=0),
        quiet: bool = flag("Off by default."),
        fine: bool = flag("On by default.", default=True),
        unsure: bool | None = flag("Neither.", default=None),
        going: bool = flag("Under other names.", "--keep-going/--fail-fast", default=True),
        group: Group,
    ) -> None:
        """Do nothing."""
        seen.update(place=place, count=count, wait=wait, quiet=quiet, fine=fine)
        seen.update(unsure=unsure, going=going, group=group)

    make_command(function, "do").main(list(words), standalone_mode=False)
    return seen


def test_without_options_each_has_its_default() -> None:
    assert called("here") == {
        "place": "here",
        "count": 3,
        "wait": 1.5,
        "quiet": False,
        "fine": True,
        "unsure": None,
        "going": True,
        "group": Group(),
    }


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("-c 4", "count", 4),
        ("-c5", "count", 5),
        ("--count=6", "count", 6),
        ("--wait 2", "wait", 2.0),
        ("--quiet", "quiet", True),
        ("--quiet=true", "quiet", True),
        ("--quiet=TRUE", "quiet", True),
        ("--quiet --quiet=false", "quiet", True),  # off is no wish of its own
        ("--fine=false", "fine", False),
        ("--no-fine", "fine", False),
        ("--no-fine --fine=true", "fine", True),
        ("--unsure", "unsure", True),
        ("--unsure=false", "unsure", False),
        ("--fail-fast", "going", False),
        ("--keep-going=false", "going", False),
        ("--color red-ish", "group", Group(color=Color.RED)),
        ("--near a --far b --far c", "group", Group(near=Path("a"), far=(Path("b"), Path("c")))),
    ],
)
def test_an_option_is_what_its_annotation_says(words: str, name: str, value: object) -> None:
    assert called("here", *words.split())[name] == value


def test_after_two_dashes_nothing_is_a_flag() -> None:
    assert called("--quiet", "--", "--quiet=true")["place"] == "--quiet=true"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("here -c", "'-c' requires an argument"),
        ("here --near", "'--near' requires an argument"),
        ("here -c 10", "1<=x<=9"),
        ("here -c many", "not a valid integer"),
        ("here --wait -1", "x>=0"),
        ("here --quiet=maybe", "does not take a value"),
        ("here --color RED", "'red-ish', 'blue'"),
        ("here --colour blue", "'--color'"),
        ("", "Missing argument 'PLACE'"),
        ("here there", "unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_a_mistake_of_usage(words: str, said: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        called(*words.split())

    assert said in raised.value.format_message()


@pytest.mark.parametrize("words", ["-c 1 -c 2", "--count 1 -c 1", "--near a --near=a", "--color blue --color blue"])
def test_an_option_of_one_value_is_given_once(words: str) -> None:
    """Click takes the last of them: a push to two registries would go to one, and say that all is well."""
    with pytest.raises(UsageError, match="takes one value, and is given more than once"):
        called("here", *words.split())


def test_flags_and_options_of_many_values_may_be_repeated() -> None:
    seen = called("here", *["--quiet", "--quiet", "--no-fine", "--fine", "--far", "a", "--far", "b"])

    assert (seen["quiet"], seen["fine"], seen["group"].far) == (True, True, (Path("a"), Path("b")))


def given(*words: str) -> dict[str, Any]:
    """The options of a command that takes them as arguments too, for these words."""
    seen: dict[str, Any] = {}

    @takes(
        file=Word(metavar="FILE"),
        names=Word(metavar="[NAME…]", is_many=True, kind="a name", file_hint="give --list {}"),
    )
    def function(
        *,
        file: Path = option("A path.", "-f", required=True),  # noqa: B008
        names: tuple[str, ...] = options("Names.", "--name", metavar="NAME", parse=str.upper),
    ) -> None:
        """Do nothing."""
        seen.update(file=file, names=names)

    make_command(function, "do").main(list(words), standalone_mode=False)
    return seen


@pytest.mark.parametrize("words", ["a b c", "--file a --name b --name c", "a --name b --name c", "--name b a --name c"])
def test_an_argument_says_the_same_as_its_option(words: str) -> None:
    assert given(*words.split()) == {"file": Path("a"), "names": ("B", "C")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("a -f b", "FILE is given as an argument, and by --file too"),
        ("a b --name c", "NAME… is given as an argument, and by --name too"),
    ],
)
def test_an_argument_and_its_option_are_not_given_together(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        given(*words.split())


def test_an_argument_that_is_needed_is_named_where_it_is_missing() -> None:
    with pytest.raises(click.UsageError) as raised:
        given("--name", "b")

    assert "Missing argument 'FILE'" in raised.value.format_message()


def test_a_file_in_place_of_a_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "list").touch()
    with pytest.raises(UsageError, match="is a file, and not a name") as raised:
        given("a", str(tmp_path / "list"))

    assert raised.value.hint == f"give --list {tmp_path / 'list'}"


async def test_commands_take_as_arguments_what_peers_take(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A bundle is built, pushed, verified, copied, listed, fetched back and exported without naming an option."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        base, file = f"{registry.address}/base", "output/content-bundle/bundle.tar.zst"
        ended = await in_turn(
            tmp_path,
            f"build {registry.address}/app:1",
            f"push {file} {base}",
            f"verify {file}",
            f"verify {file} {base}",
            f"copy {file} {base}2",
            f"save {base}2/bundle-definition:bundle -o saved",
            f"export {file} -o oci.tar",
            f"have {base} -o have.json",
            f"list {base}2/bundle-definition",
        )
        there = await client.tags(registry, f"base2/{registry.address.replace(':', '_')}/app")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith(f"{base}2/bundle-definition:bundle\n".encode())
    assert there == ["1"]
    assert (tmp_path / "saved/bundle.tar.zst").read_bytes() == (tmp_path / file).read_bytes()


async def in_turn(directory: Path, *lines: str) -> subprocess.CompletedProcess[bytes]:
    """Run command lines of ours one after the other in one process, until one fails."""
    ended = "next(filter(None, (main(line.split()) for line in sys.argv[1:])), 0)"
    program = f"import sys; from syncer.cli import main; sys.exit({ended})"
    return await anyio.run_process(
        [sys.executable, "-W", "error", "-c", program, *lines], check=False, cwd=directory, env=environment(directory)
    )


def test_a_name_may_be_longer_than_that_of_a_file() -> None:
    assert given("a", "b" * 5000)["names"] == ("B" * 5000,)


async def test_a_list_of_images_given_as_an_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("busybox:1.37\n")
    ran = await in_turn(tmp_path, "build images.txt")

    assert ran.returncode == 2
    assert b"error: images.txt is a file, and not the name of an image\n" in ran.stderr
    assert b"hint: syncer build --images-file images.txt" in ran.stderr


async def test_several_bundles_to_push_are_told(tmp_path: Path) -> None:
    """As a pattern of the shell makes them."""
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).touch()
    ran = await in_turn(tmp_path, "push a.tar b.tar")

    assert ran.returncode == 2
    assert b"error: b.tar is a file, and not a registry\n" in ran.stderr


@pytest.mark.parametrize("words", ["push -f", "push -f x", "push -f x -r localhost:1 --concurrency 0", "build -x", ""])
async def test_wrong_usage_ends_with_two_and_leaves_stdout_alone(words: str, tmp_path: Path) -> None:
    ran = await syncer(*words.split(), home=tmp_path)

    assert (ran.code, ran.stdout) == (2, "")
    assert "error: " in ran.stderr or ran.stderr.startswith("Usage: syncer")


def test_a_reader_that_leaves_early_hears_no_complaint(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "syncer", "build", "--help"]
    ran = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, env=environment(tmp_path))
    os.close(writing)

    assert (ran.returncode, ran.stderr) == (1, b"")


_CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", _CLOSED)
async def test_a_build_needs_no_standard_streams(debian_registry: OpenRegistry, tmp_path: Path, closed: str) -> None:
    """The next socket would get the number of a closed one, and the event loop's library ends such a process."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        ran = await shell(
            f"build --image {registry.address}/app:1 --output out --report report.json {closed}", tmp_path
        )
        pushed = await shell(
            f"push --file out/bundle.tar.zst --registry {registry.address}/base --json {closed}", tmp_path
        )

    assert (ran.returncode, pushed.returncode) == (0, 0), ran
    assert json.loads((tmp_path / "report.json").read_bytes())["totals"]["images_copied"] == 1


@pytest.mark.parametrize("words", ["version", "--help", "build --help", "definition bundle-definition.yaml", "plan -f"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
async def test_a_full_disk_behind_standard_output_is_one_sentence(tmp_path: Path, words: str, unbuffered: str) -> None:
    (tmp_path / "bundle-definition.yaml").write_text("name: bundle\nimages: []\n")
    command = words.replace("plan -f", f"plan --image {UNUSED}/app --registry {UNUSED} --json")
    ran = await shell(f"{command} > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)

    assert (ran.returncode, ran.stderr.decode()) == (
        5,
        "error: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.parametrize("form", ["", "--json", "--log-format json"])
async def test_a_run_that_cannot_be_told_is_carried_out_and_written_down(
    debian_registry: OpenRegistry, tmp_path: Path, form: str
) -> None:
    """Its report is there, though nobody reads what it prints, and a full disk behind its talk is no failure."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        build = f"build --force --image {registry.address}/app:1 --output out --report report.json {form}"
        ends = []
        for command in (
            f"{build} > /dev/full",
            f"{build} | true",
            f"{build} 2> /dev/full",
            f"{build} 2>&1 > /dev/full",
        ):
            (tmp_path / "report.json").unlink(missing_ok=True)
            ran = await shell(command, tmp_path)
            ends.append(ran.returncode)
            assert b"Traceback" not in ran.stderr
            assert json.loads((tmp_path / "report.json").read_bytes())["totals"]["images"] == 1

    assert ends == [5, 1, 0, 5]


async def shell(command: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """``command`` of syncer as a shell runs it, whose redirections it may have."""
    program = f"set -o pipefail; {sys.executable} -W error -m syncer {command}"
    return await anyio.run_process(
        ["bash", "-c", program], check=False, cwd=directory, env=environment(directory) | variables
    )
