"""The pages for users are true: what they tell to type is run, and ends as they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment

DOCS = Path(__file__).parent.parent / "docs"


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
