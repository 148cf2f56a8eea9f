"""The pages for developers are true: what they name is there, and what they show is in the tree as it is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import app as benchmarks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "tests/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
OF_THE_SITE = {DOCS / "conf.py", DOCS / "site"}  # settings of Sphinx
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BASES = [ROOT, ROOT / "syncer", ROOT / "tests", ROOT / "tests/support"]
MADE = {"benchmarks/.cache", "build", "build/site", "output"}  # by a run; git ignores it
ROOMS = {path.name for base in BASES for path in base.iterdir() if path.is_dir()} - MADE


def named(text: str) -> Iterator[str]:
    """The paths between backticks: of a Python file, or of something below a directory of ours."""
    for path in re.findall(r"`([\w./-]+/?)(?:::\w+)?`", text):
        if path.endswith(".py") or ("/" in path and path.partition("/")[0] in ROOMS):
            yield path


def links(text: str) -> Iterator[str]:
    """Where a page's links lead to, but for those that leave the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target


def fragments(text: str) -> set[str]:
    """What each heading of a page is called in a link, by GitHub's rule."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    for path in set(named(page.read_text())) - MADE:
        assert any((base / path).exists() for base in (page.parent, *BASES)), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        path, _, fragment = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not fragment or fragment in fragments(there.read_text()), target


def test_the_index_of_the_pages_leads_to_each_of_them() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in links(index.read_text())}

    there = {path / "README.md" if path.is_dir() else path for path in set(DOCS.iterdir()) - OF_THE_SITE}
    assert there | set(PAGES) <= linked | {index}
    assert index.relative_to(ROOT).as_posix() in links((ROOT / "README.md").read_text())


def test_a_test_that_the_page_for_developers_shows_is_one_of_ours() -> None:
    """Word for word, in the file that the sentence before it names."""
    shown = re.findall(r"`(tests/test_\w+\.py)`:\n\n```python\n(.*?)```", CONTRIBUTING, re.DOTALL)

    assert len(shown) == CONTRIBUTING.count("```python") == 2
    for file, code in shown:
        assert code in (ROOT / file).read_text(), file


def test_every_make_that_the_page_for_developers_names_is_there() -> None:
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = set(re.findall(r"`make ([a-z-]+)`", CONTRIBUTING))

    assert told == there - {"help", "tools", "ship-tools"}  # which lists them, and parts of others


def test_the_benchmarks_that_the_page_for_developers_shows_can_be_run() -> None:
    commands: Any = benchmarks
    for line in re.findall(r"^python -m benchmarks (.+)$", CONTRIBUTING, re.MULTILINE):
        name, *words = shlex.split(line)
        commands.commands[name].make_context(name, words)


def test_the_design_page_draws_the_tree_as_it_is() -> None:
    """Each package and module of the first floor, once."""
    (drawn,) = re.findall(
        r"```\nsyncer/\n(.*?)^benchmarks/", (DOCS / "design.md").read_text(), re.DOTALL | re.MULTILINE
    )
    names = [name for line in drawn.splitlines() for name in re.findall(r"[a-z_]+(?:\.py|/)(?=\s|$)", line)]
    there = [f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "syncer").iterdir()]

    assert sorted(names) == sorted(set(there) - {"__pycache__/", "__main__.py", "py.typed"})
