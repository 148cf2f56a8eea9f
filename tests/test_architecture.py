"""The house as docs/design.md draws it: who may know whom, without circles, and small enough to be read."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "syncer"
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
LINES = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}

_SEES_EVERYTHING = {"cli", "demo", "__init__", "__main__"}
_THIN = 60  # lines
_NOT_IN_STRUCTS = re.compile(r"\b(repr|compare|hash|init)=False")  # of a field
_HUB = re.compile(r"docker\.io|hub\.docker|index\.docker|registry-1\b|(^|/)library($|/)", re.IGNORECASE)
_FOR_PEOPLE = {"help", "epilog", "hint", "metavar"}  # arguments that are shown and nothing else


def layers() -> dict[str, set[str]]:
    """The table of layers of the design page: each part, and what it may import."""
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| ([a-z]+) \|([a-z, ]*)\|$", text, flags=re.MULTILINE)
    return {part: {name.strip() for name in allowed.split(",") if name.strip()} for part, allowed in rows}


def part_of(module: str) -> str:
    path = MODULES[module].relative_to(PACKAGE)
    return path.parts[0].removesuffix(".py")


def imports(tree: ast.AST, *, of_types: bool) -> Iterator[str]:
    """The modules of ours that ``tree`` imports; with ``of_types`` also what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not of_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys()
            if names - MODULES.keys():
                yield node.module
        yield from imports(node, of_types=of_types)


KNOWN = {name: set(imports(tree, of_types=False)) - {name} for name, tree in TREES.items()}


def test_the_design_page_has_a_layer_for_each_part() -> None:
    assert layers().keys() == {part_of(module) for module in MODULES} - _SEES_EVERYTHING


@pytest.mark.parametrize("part", layers())
def test_each_part_knows_only_what_it_stands_on(part: str) -> None:
    allowed = layers()[part] | {part}

    for module, tree in TREES.items():
        if part_of(module) == part:
            known = {part_of(other) for other in imports(tree, of_types=True)} - {"__init__"}  # which has the version
            assert known <= allowed, module


def test_nothing_is_imported_in_a_circle() -> None:
    order: list[str] = []
    left = dict(KNOWN)
    while free := [module for module, known in left.items() if not known & left.keys()]:
        order += free
        for module in free:
            del left[module]

    assert not left, "these import each other, or what does"


def test_the_house_stays_small() -> None:
    """One room for one thing: neither too many modules, nor thin ones that belong to their only reader."""
    modules = [name for name, path in MODULES.items() if path.name != "__init__.py"]
    readers: defaultdict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        for module in set(imports(tree, of_types=True)) - {name}:
            readers[module].add(name)
    thin = [name for name in modules if LINES[name] < _THIN and len(readers[name]) == 1]

    assert len(modules) <= 170
    assert len(thin) <= 15, thin


def test_a_name_on_a_door_says_which_room_it_is() -> None:
    """A job and its command share a name: ``api.push`` and ``cli.push``."""
    names = Counter[str]()
    for base, packages in _packages_by_name().items():
        names[base] = len(packages - {"syncer.api"} if packages == {"syncer.api", "syncer.cli"} else packages)

    twins = [base for base, count in names.items() if count > 1]
    assert len(twins) <= 8, twins


def _packages_by_name() -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            package, _, base = name.rpartition(".")
            found[base].add(package)
    return found


def test_values_do_no_io_and_never_wait() -> None:
    for module in (PACKAGE / "oci").glob("*.py"):
        tree = ast.parse(module.read_text())

        assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)], module
        assert "open(" not in module.read_text(), module


def test_a_value_is_a_struct_unless_it_says_why_not() -> None:
    """A dataclass takes 30 times as long to make: it is for what a Struct cannot do, and for groups of options."""
    dataclasses = {node.name: node for tree in TREES.values() for node in ast.walk(tree) if _is_dataclass(node)}
    bases = {base.id for node in dataclasses.values() for base in node.bases if isinstance(base, ast.Name)}

    for name, tree in TREES.items():
        if part_of(name) == "cli" or name == "syncer.profiles.definition.definition":
            continue
        for node in filter(_is_dataclass, ast.walk(tree)):
            assert isinstance(node, ast.ClassDef)
            has_reason = node.bases or node.name in bases or _NOT_IN_STRUCTS.search(ast.unparse(node))
            assert has_reason, f"{name}: {node.name} could be a Struct"


def _is_dataclass(node: ast.AST) -> TypeGuard[ast.ClassDef]:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def test_one_module_knows_docker_hubs_names() -> None:
    """Docstrings and help texts aside: what compares, adds or takes away such a name asks ``oci/docker_hub.py``."""
    found = {name: texts for name, tree in TREES.items() if (texts := [t for t in _texts(tree) if _HUB.search(t)])}

    assert found.keys() == {"syncer.oci.docker_hub"}, found


def _texts(tree: ast.AST) -> Iterator[str]:
    """Every literal text of a module, parts of f-strings and bytes among them, but for what only people read."""
    for node in ast.iter_child_nodes(tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or (isinstance(node, ast.keyword) and node.arg in _FOR_PEOPLE):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        yield from _texts(node)


def test_few_imports_wait_inside_a_function() -> None:
    """They are for what few runs need and takes long to import; what a type checker alone reads does not count."""
    found = [f"{name}:{line}" for name, tree in TREES.items() for line in _late_imports(tree, is_inside=False)]

    assert len(found) <= 40, found


def _late_imports(tree: ast.AST, *, is_inside: bool) -> Iterator[int]:
    """The lines of the imports inside functions below ``tree``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if is_inside and isinstance(node, ast.Import | ast.ImportFrom):
            yield node.lineno
        inside = is_inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _late_imports(node, is_inside=inside)


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("httptools", ("syncer.transport.http",)),
        ("aiohttp", ("syncer.serve.", "syncer.profiles.palette.console")),
        ("distributed", ("syncer.fleet.dask",)),
        ("dask", ("syncer.fleet.dask",)),
    ],
)
def test_a_library_has_its_room(library: str, rooms: tuple[str, ...]) -> None:
    """Registries are spoken to by the loop and by threads alone; Dask is an extra, which most runs do without."""
    assert [name for name, tree in TREES.items() if library in _libraries(tree) and not name.startswith(rooms)] == []


def _libraries(tree: ast.AST) -> set[str]:
    """The first names of all that is imported."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_nobody_below_the_command_line_reads_the_environment() -> None:
    allowed = {"cli", "demo", "failpoints"}  # the last is for tests alone

    for module, path in MODULES.items():
        if part_of(module) not in allowed:
            assert "os.environ" not in path.read_text(), module
            assert "getenv" not in path.read_text(), module


def test_a_module_fits_into_a_head() -> None:
    assert not {module: length for module, length in LINES.items() if length > 500}


def test_nothing_is_called_by_a_name_that_would_fit_any_program() -> None:
    empty = ("manager", "helper", "util", "handler", "processor", "common", "misc", "base")

    assert not [path for path in MODULES.values() if any(word in path.stem for word in empty)]
