"""The pages for users are true: what they tell to type is run, and ends as they say."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import click
import pytest

import syncer
from syncer.formats.yaml import parse_documents
from syncer.profiles.syncfile.sync_file import check_sync_file
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment
from tests.test_defaults import parsed
from tests.test_sync_docs import typed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(page: str) -> Iterator[tuple[str, list[str]]]:
    """The blocks of code of a page: the word after the fence, and the lines."""
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield kind, text.splitlines()


async def run(command: str, directory: Path) -> str:
    """What a command that must succeed prints there; ``docker`` and a server in another terminal are not run."""
    program, *words = shlex.split(command)
    if program != "syncer" or words[0] == "serve":
        return ""
    ran = await anyio.run_process(
        [sys.executable, "-m", "syncer", *words], cwd=directory, env=environment(directory), stderr=subprocess.STDOUT
    )
    return ran.stdout.decode()


async def test_the_first_bundle_comes_about_as_its_page_says(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """Command by command, with each line of output that is shown; only the hosts are others."""
    page = (DOCS / "first-bundle.md").read_text()
    async with serve_disk("source") as source, serve_disk("target") as target:
        for repository, tag in (("pause", "3.10"), ("cilium/cilium", "v1.16.5"), ("library/busybox", "1.37")):
            await client.push(source, repository, images.multi_platform(repository), tag)
        page = re.sub(r"registry\.k8s\.io/|quay\.io/|docker\.io/", f"{source.address}/", page)
        page = page.replace("127.0.0.1:5000", target.address).replace("/home/you", str(tmp_path))
        printed, shown = "", 0
        for kind, lines in blocks(page):
            if lines[0] == "# images.txt":
                (tmp_path / "images.txt").write_text("\n".join(lines))
            elif kind == "text":
                assert [line for line in lines if line not in printed.splitlines()] == [], printed
                shown += len(lines)
            else:
                printed = "".join([await run(line, tmp_path) for line in lines])

        repositories = await client.repositories(target)
    assert len(repositories) == 4  # of the images, and of the definition
    assert shown >= 6


async def test_the_examples_of_the_library_run(
    serve_disk: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as in one program; only the hosts are others."""
    page = (DOCS / "library.md").read_text()
    names: dict[str, Any] = {"syncer": syncer, "anyio": anyio, "time": time}
    async with serve_disk("source") as source, serve_disk("one") as one, serve_disk("two") as two:
        await client.push(source, "app", images.multi_platform("app"), "1")
        await syncer.build([f"{source.address}/app:1"], name="edge", output=tmp_path)
        monkeypatch.chdir(tmp_path)
        Path("sites.yaml").write_text(f"targets: [{{registry: '{two.address}/all'}}]")
        page = re.sub(r"pilot\.example\.com|10\.0\.0\.1:8000", one.address, page)
        page = re.sub(r"a\.example\.com|10\.0\.0\.2:8000", two.address, page)
        page = page.replace(f'"{two.address}/images"', f'"{two.address}/more"')  # or two sites would be one

        ran = [await executed("\n".join(lines), names) for kind, lines in blocks(page) if kind == "python"]

        assert len(ran) >= 3
        assert await client.repositories(one)
    assert (names["deployed"].exit, names["pushed"].exit, names["result"].exit) == (0, 0, 0)


async def executed(text: str, names: dict[str, Any]) -> bool:
    """Run a block that may wait where a program's own function would."""
    code = compile(text, "library.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)
    if waiting is not None:
        await waiting
    return True


async def test_the_program_of_the_readme_runs(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    (program,) = (lines for kind, lines in blocks((ROOT / "README.md").read_text()) if kind == "python")
    async with serve_disk("source") as source, serve_disk("target") as target:
        await client.push(source, "cilium/cilium", images.image("cilium"), "v1.16.5")
        await client.push(source, "busybox", images.image("busybox"), "1.37")
        text = (
            "\n".join(program)
            .replace("quay.io/", f"{source.address}/")
            .replace("busybox:", f"{source.address}/busybox:")
        )
        text = text.replace("10.10.254.254:8000", target.address)

        ran = await anyio.run_process([sys.executable, "-c", text], cwd=tmp_path, env=environment(tmp_path))

        assert len(await client.repositories(target)) == 3
    assert "edge.tar.zst" in ran.stdout.decode()


HOLES = r"[A-Z]{2,}[A-Z/]*\b|\bN\b|…|\d[\w:]*(?: (?:[kMG]B|h))?|linux/\w+"
"""What stands in a message of the page for something else each time."""


def code(*places: Path) -> str:
    """These modules as one text, in which a string that is written on several lines stands on one."""
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text() for path in places))


def messages(page: str) -> Iterator[str]:
    """The messages in the first column of its tables."""
    for cell in re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", cell)


def test_every_message_that_the_page_explains_is_one_of_syncers() -> None:
    said = code(*(ROOT / "syncer").rglob("*.py"), ROOT / "tests/test_messages.py")
    told = list(messages((DOCS / "troubleshooting.md").read_text()))

    for message in told:
        for words in filter(None, (part.strip() for part in re.split(rf"{HOLES}|[(),:]", message))):
            assert words in said, f"{message}: {words}"
    assert len(told) >= 20


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.name)
def test_every_yaml_of_a_page_can_be_read(page: Path) -> None:
    """A sync file by its own parser, as far as it shows before its variables have values."""
    for text in ("\n".join(lines) for kind, lines in blocks(page.read_text()) if kind == "yaml"):
        parse_documents(text, page.name)
        if re.search(r"^sources:", text, re.MULTILINE):
            check_sync_file(text, page)


async def test_the_page_for_those_who_come_from_elsewhere_names_each_file_that_is_imported(tmp_path: Path) -> None:
    """By the first word of each line of ``import --list``: regsync, skopeo, …"""
    listed = (await run("syncer import --list", tmp_path)).splitlines()
    page = "\n".join((DOCS / name).read_text() for name in ("migration.md", "import.md", "sync.md"))

    assert len(listed) > 10
    assert [line for line in listed if not re.search(re.escape(line.split()[0]), page, re.IGNORECASE)] == []


def test_the_comparison_says_of_each_tool_what_was_read_and_of_syncer_where_it_stands() -> None:
    page = (DOCS / "comparison.md").read_text()
    read, *tables = re.findall(r"^\| .+\n\|[-|]+\|\n(?:\|.+\n)+", page, re.MULTILINE)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()[2:]]
    tools = [row.split("]")[0].removeprefix("| [") for row in read.splitlines()[2:]]
    heads = {table.splitlines()[0] for table in tables}

    assert len(rows) > 40
    assert heads == {f"| | syncer | {' | '.join(tools)} | where |"}
    for feature, ours, *theirs, where in rows:
        assert len(theirs) == len(tools), feature
        assert set(theirs) <= {"yes", "no", "part", "?", "–"}, feature
        assert ours in {"yes", "no", "part"}, feature
        assert ours == "no" or where.startswith("syncer: ["), feature


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_every_command_line_of_a_page_can_be_typed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its arguments and the values of its options; BASE and what stands before it are any name."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for _, *words in typed(page.read_text()):
        try:
            parsed(*(re.sub("[A-Z]+/BASE", "registry.example.com/base", word) for word in words))
        except (click.ClickException, syncer.SyncerError) as wrong:
            pytest.fail(f"{shlex.join(words)}: {wrong}")
