"""Who may know whom (DESIGN.md, "Where things live"), and that the house stays small and readable."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "syncer"

MAY_IMPORT = {
    "errors": set(),
    "oci": {"errors"},
    "content": {"oci", "errors"},
    "transport": {"errors"},
    "registry": {"transport", "content", "oci", "errors", "failpoints"},
    "bundle": {"content", "oci", "errors", "failpoints"},
    "profiles": {"transport", "content", "oci", "errors"},
    "transfer": {"content", "oci", "errors"},
    "serve": {"content", "oci", "errors"},
    "report": {"transfer", "content", "oci", "errors"},
    "log": {"report", "transfer", "content", "oci", "errors"},
    "api": {"report", "transfer", "registry", "bundle", "profiles", "transport", "content", "oci", "errors"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "syncer" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            root, _, rest = name.partition(".")
            if root == "syncer" and rest:
                yield rest.split(".")[0]


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_part_knows_only_what_it_stands_on(part: str) -> None:
    allowed = MAY_IMPORT[part] | {part, "__version__"}

    for module in (module for module in modules() if part_of(module) == part):
        assert set(imported_parts(module)) <= allowed, module.relative_to(PACKAGE)


def test_values_do_no_io_and_never_wait() -> None:
    for module in (PACKAGE / "oci").glob("*.py"):
        tree = ast.parse(module.read_text())

        assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)], module
        assert "open(" not in module.read_text(), module


def test_nobody_below_the_command_line_reads_the_environment() -> None:
    allowed = {"cli", "demo", "failpoints"}  # the last is for tests alone

    for module in modules():
        if part_of(module).removesuffix(".py") not in allowed:
            assert "os.environ" not in module.read_text(), module.relative_to(PACKAGE)
            assert "getenv" not in module.read_text(), module.relative_to(PACKAGE)


def test_a_module_fits_into_a_head() -> None:
    lengths = {module: len(module.read_text().splitlines()) for module in modules()}

    assert not {str(module.relative_to(PACKAGE)): length for module, length in lengths.items() if length > 500}


def test_nothing_is_called_by_a_name_that_would_fit_any_program() -> None:
    empty = ("manager", "helper", "util", "handler", "processor", "common", "misc", "base")

    assert not [module for module in modules() if any(word in module.stem for word in empty)]
