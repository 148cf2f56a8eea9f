"""Targets files: the sites that one bundle goes to, and the choice of some of them (docs/sites.md).

A targets file has the ``targets`` and ``registries`` of a sync file.  A target there stands for many sites when its
registry has ranges in braces, and ``targets_csv`` names a table of further ones::

    file = read_sites(Path("sites.yaml"), environment)
    sites = select_sites(file.sites, only=["region=eu"], excluded=["*-lab"])
    mine = [site for site in sites if shard.takes(site.key)]  # a formats.units.Shard
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Struct, field, structs

from syncer.errors import InvalidFile, UsageError
from syncer.formats.models import (
    UNREADABLE,
    Model,
    Schema,
    check,
    given,
    json_schema,
    names_of_fields,
    not_empty,
    not_empty_but,
    one_or_many,
    only_with,
    parsed,
    readable,
    text_schema,
    within,
)
from syncer.formats.text import read_table, read_text, unreadable
from syncer.formats.units import Braces
from syncer.formats.windows import Window
from syncer.formats.yaml import Map, Seq, line_of, mistake_at, nearest, spell_path
from syncer.naming import MappingRule, NameMapping
from syncer.oci.reference import registry_place, target_key
from syncer.profiles.syncfile.document import (
    ByteCount,
    FilePath,
    Name,
    NameRules,
    Registry,
    RegistryHost,
    Target,
    check_registry,
)
from syncer.profiles.syncfile.site import LimitGroup, Site
from syncer.profiles.syncfile.sync_file import Draft, RegistriesFile, misplaced_rules

MAX_SITES = 1_000_000
"""Sites of one file."""


class SitesFile(RegistriesFile, frozen=True, kw_only=True):
    """A targets file: its sites in their order, those that are not enabled among them, and settings of registries."""

    sites: tuple[Site, ...]

    @property
    def groups(self) -> tuple[LimitGroup, ...]:
        """The groups of the sites, each once."""
        return tuple(dict.fromkeys(site.group for site in self.sites if site.group))


# The document


def _check_registries(pattern: str) -> str:
    """Check a registry with ranges in its name; raises ``UsageError``."""
    braces = Braces.parse(pattern)
    if braces.count > MAX_SITES:
        raise UsageError(f"{pattern[:160]!r} stands for {braces.count:,} sites, more than {MAX_SITES:,}")
    return check_registry(next(iter(braces))) and pattern


_PLACE = r"([Hh][Tt][Tt][Pp][Ss]?://)?[A-Za-z0-9.\[\]:{}-]+(/[a-z0-9._/{}-]*)?"
_Names: TypeAlias = Annotated[str, parsed(lambda names: Braces.parse(names) and names), not_empty]
_CLOCK = r"[0-9]{1,2}:[0-5][0-9]"
_EXAMPLE = "A time of each day: `22:00-05:00 Europe/Berlin`."
_Time: TypeAlias = Annotated[
    Window, parsed(Window.parse, text_schema(_EXAMPLE, pattern=rf"\s*{_CLOCK}\s*-\s*{_CLOCK}\s+\S+\s*"))
]


_SOME_WINDOWS = not_empty_but("leave `windows` out for any time, and write `enabled: false` for never")


class SiteTarget(Target, frozen=True, kw_only=True):
    """One entry of ``targets``: a site, or as many as the ranges in its registry have numbers."""

    registry: Annotated[
        str,
        parsed(
            _check_registries,
            text_schema(
                "A registry and perhaps a path, `[http://|https://]HOST[:PORT][/BASE]`; with ranges, as in "
                "`10.{1..250}.0.4:8000`, it stands for many.",
                pattern=_PLACE,
            ),
        ),
    ]
    name: _Names | None = None  # with as many ranges as the registry
    labels: dict[str, str] = field(default_factory=dict)
    enabled: bool = True
    bytes_per_second: ByteCount | None = None  # of the site; with a group, of all its sites together
    limit_group: Name | None = None
    at_once: Annotated[int, within(1)] | None = None  # sites of the group
    windows: Annotated[tuple[_Time, ...], _SOME_WINDOWS, one_or_many] = ()

    more: ClassVar[Schema] = only_with("at_once", given("limit_group"))

    def problems(self) -> Iterator[UsageError]:
        if self.at_once is not None and self.limit_group is None:
            yield UsageError(
                "`at_once` belongs to a `limit_group`", hint="for all sites of a run it is the flag --at-once"
            )
        if UNREADABLE in (self.registry, self.name):
            return
        wanted, named = Braces.parse(self.registry).count, Braces.parse(self.name or self.registry).count
        if wanted != named:
            yield UsageError(
                f"its registry stands for {wanted:,} sites and its name for {named:,}",
                hint="give the name the same ranges, or leave it out",
            )


class SitesDocument(Model, frozen=True, kw_only=True):
    """The whole targets file."""

    version: Literal["1"] = "1"
    targets: tuple[SiteTarget, ...] = ()
    targets_csv: FilePath | None = None  # a table of further targets; its columns are called like their fields
    map: NameRules = field(default_factory=dict)  # for all sites; a target's own rules come first
    registries: dict[RegistryHost, Registry] = field(default_factory=dict)

    more: ClassVar[Schema] = {"anyOf": [given("targets"), given("targets_csv")]}

    def problems(self) -> Iterator[UsageError]:
        if not self.targets and self.targets_csv is None:
            yield UsageError("it names no target", hint="put sites into `targets`, or name a table as `targets_csv`")


def sites_schema() -> dict[str, Any]:
    """The JSON Schema of a targets file, made of these models."""
    return json_schema(SitesDocument, "A targets file of syncer: the sites that a bundle goes to")


# Reading


def read_sites(path: Path, environment: Mapping[str, str], *, logins_here: bool = True) -> SitesFile:
    """Read the targets file at ``path``, and the table that it names; variables are looked up in ``environment``.

    Raises ``InvalidFile`` with all mistakes, each with line and field; see ``read_sync_file`` about ``logins_here``.
    """
    return parse_sites(read_text(path), path, environment, logins_here=logins_here)


def parse_sites(text: str, path: Path, environment: Mapping[str, str], *, logins_here: bool = True) -> SitesFile:
    """Parse ``text``, the content of the file ``path``; see ``read_sites``."""
    expected = "a targets file has `targets` or `targets_csv`"
    draft = Draft.read(SitesDocument, text, path, environment, expected=expected)
    collected = _Collected(draft.tree, path)
    targets = draft.tree.get("targets")
    for index, entry in enumerate(targets if isinstance(targets, list) else ()):
        target = draft.document.targets[index] if draft.document else _readable_part(entry)
        if target is not None:
            place = ("targets", index)
            collected.targets.append(_Placed(target, path, line_of(draft.tree, place), spell_path(place)))
    table = draft.tree.get("targets_csv")
    if isinstance(table, str):
        file = path.parent / Path(table).expanduser()
        if problem := unreadable(file):
            collected.mistakes.append(mistake_at(draft.tree, path, problem, "targets_csv"))
        else:
            collected.add_table(file)
    collected.expand()
    draft.add(collected.mistakes)
    if draft.document and not collected.mistakes:
        draft.add(collected.misplaced_rules(draft.document))
    document = draft.finish(path, environment if logins_here else None)
    return SitesFile(
        path=path,
        by_host=document.registries,
        tree=draft.tree,
        from_variables=draft.from_variables,
        sites=tuple(collected.sites.values()),
    )


class _Placed(Struct, frozen=True):
    """A target, and where it stands."""

    target: SiteTarget
    origin: Path
    line: int | None
    spelt: str = ""

    @property
    def place(self) -> str:
        return f"{self.origin}:{self.line}"

    def mistake(self, problem: str) -> InvalidFile:
        return InvalidFile(self.origin, problem, line=self.line, field=self.spelt)


_OF_OTHERS = (
    "registry",
    "name",
    "limit_group",
    "at_once",
    "bytes_per_second",
)  # fields that two targets may not agree on


def _readable_part(entry: Any) -> SiteTarget | None:
    """The part of a target that others may contradict, whatever is wrong with the rest; None without its registry."""
    known = readable(SiteTarget, entry)
    for fields in (_OF_OTHERS, _OF_OTHERS[:1]):
        with suppress(UsageError, KeyError):
            return SiteTarget(registry=known["registry"], **{name: known[name] for name in fields[1:] if name in known})
    return None


class _Collected(Struct):
    """The targets of a file as far as they are right, their sites by their keys, and the mistakes about them."""

    tree: Map
    path: Path
    mistakes: list[InvalidFile] = field(default_factory=list)
    targets: list[_Placed] = field(default_factory=list)
    sites: dict[str, Site] = field(default_factory=dict)
    names: dict[str, Site] = field(default_factory=dict)  # and by their names

    def add_table(self, path: Path) -> None:
        """Add the targets of a table, as far as it can be read."""
        for row in _rows(path):
            if isinstance(row, InvalidFile):
                self.mistakes.append(row)
                continue
            line, cells = row
            target: SiteTarget | None
            try:
                target = check(SiteTarget, cells, path, line=line)
            except InvalidFile as wrong:
                self.mistakes += wrong.all
                target = _readable_part(cells)
            if target is not None:
                self.targets.append(_Placed(target, path, line))

    def expand(self) -> None:
        """Make the sites of the targets."""
        groups = self._groups()
        for placed in self.targets:
            target = placed.target
            if len(self.sites) + Braces.parse(target.registry).count > MAX_SITES:
                self.mistakes.append(placed.mistake(f"with this target there are more than {MAX_SITES:,} sites"))
                return
            group = groups[target.limit_group] if target.limit_group else None
            problems = [problem for site in self._sites(placed, group) if (problem := self._add(site))]
            if problems:
                others = f" (and {len(problems) - 1:,} more of its sites)" if len(problems) > 1 else ""
                self.mistakes.append(placed.mistake(f"{problems[0]}{others}"))

    def misplaced_rules(self, document: SitesDocument) -> Iterator[InvalidFile]:
        """Find rules for names that make none at the sites that they are for, of which all are right."""
        if document.map:
            places = [registry_place(site.registry) for site in self.sites.values()]
            yield from misplaced_rules(self.tree, self.path, document.map, places, "map")
        for index, target in enumerate(document.targets):
            if target.map:
                places = list(map(registry_place, Braces.parse(target.registry)))
                yield from misplaced_rules(self.tree, self.path, target.map, places, "targets", index, "map")

    def _groups(self) -> dict[str, LimitGroup]:
        """The groups; a limit is said by one target of a group at least, and by others the same."""
        groups: dict[str, LimitGroup] = {}
        for placed in self.targets:
            target = placed.target
            if target.limit_group is None:
                continue
            group = groups.get(target.limit_group) or LimitGroup(target.limit_group)
            for limit in ("at_once", "bytes_per_second"):
                known, said = getattr(group, limit), getattr(target, limit)
                if known is not None and said not in (None, known):
                    problem = f"its group {group.name} has `{limit}: {known}` in another target, and {said} here"
                    self.mistakes.append(placed.mistake(problem))
                elif said is not None:
                    group = structs.replace(group, **{limit: said})
            groups[group.name] = group
        return groups

    def _sites(self, placed: _Placed, group: LimitGroup | None) -> Iterator[Site]:
        target, mapping = placed.target, self._mapping(placed.target)
        for registry, name in zip(
            Braces.parse(target.registry), Braces.parse(target.name or target.registry), strict=True
        ):
            yield Site(
                name=name,
                registry=registry,
                place=placed.place,
                labels=target.labels,
                enabled=target.enabled,
                mapping=mapping,
                bytes_per_second=None if group else target.bytes_per_second,
                group=group,
                windows=target.windows,
            )

    def _add(self, site: Site) -> str | None:
        """Add ``site``, and tell what is wrong with it."""
        try:
            check_registry(site.registry)
        except UsageError as error:
            return str(error)
        known = self.sites.setdefault(target_key(site.registry), site)
        named = self.names.setdefault(site.name, site)
        if known is not site:
            return f"{site.key} is a target already, at {known.place}"
        return None if named is site else f"{site.name!r} is the name of another site already, at {named.place}"

    def _mapping(self, target: SiteTarget) -> NameMapping:
        rules: dict[str, MappingRule] = {}
        for document in (self.tree.get("map"), target.map):
            try:
                rules |= {rule.prefix: rule for rule in NameMapping.from_document(document or {}).rules}
            except (UsageError, AttributeError):  # of the whole file, whose model says so
                continue
        return NameMapping.of(rules.values())


def _columns() -> list[str]:
    return [name for name in names_of_fields(SiteTarget) if name not in ("map", "labels")]


def _rows(path: Path) -> Iterator[tuple[int, Map] | InvalidFile]:
    """The rows of a table as targets, each with its line; and what is wrong with those that cannot be read."""
    header: list[str] | None = None
    try:
        for line, cells in read_table(path):
            if header is None:
                header = cells
                if wrong := list(_header_mistakes(cells, path, line)):
                    yield from wrong
                    return
            elif len(cells) != len(header):
                yield InvalidFile(path, f"it has {len(cells)} cells, and the first row {len(header)}", line=line)
            else:
                yield line, _row(dict(zip(header, cells, strict=True)), line)
    except InvalidFile as unreadable_from_here:
        yield unreadable_from_here
        return
    if header is None:
        yield InvalidFile(path, "it is empty, and a table of targets is expected", line=1)


def _header_mistakes(names: list[str], path: Path, line: int) -> Iterator[InvalidFile]:
    columns = _columns()
    known = f"known: {', '.join(columns)} and label.NAME"
    is_split_otherwise = any(set(name) & set(";\t") for name in names)
    missing = "registry" not in names
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield InvalidFile(path, f"the column {name!r} stands there twice", line=line)
        if name in columns or re.fullmatch(r"label\..+", name):
            continue
        near = None if is_split_otherwise else nearest(name, columns)
        missing &= near != "registry" and not is_split_otherwise
        hint = "separate columns with commas" if is_split_otherwise else "a label is a column label.NAME"
        said = f"did you mean {near}?" if near else known
        problem = f"there is no column {name[:80]!r}; {said}"
        yield InvalidFile(path, problem, line=line, hint=None if near else hint)
    if missing:
        yield InvalidFile(path, f"it has no column 'registry'; {known}", line=line)


def _row(cells: Mapping[str, str], line: int) -> Map:
    """The target of one row: an empty cell says nothing, and windows are separated by semicolons."""
    row, labels = Map(), Map()
    for name, cell in cells.items():
        if not cell:
            continue
        if name.startswith("label."):
            labels[name.removeprefix("label.")] = cell
        elif name == "windows":
            row[name] = Seq()
            row[name] += [each.strip() for each in cell.split(";") if each.strip()]
            row[name].lines = [line] * len(row[name])
        else:
            row[name] = cell
    row["labels"] = labels
    labels.lines = dict.fromkeys(labels, line)
    row.lines = dict.fromkeys(row, line)
    return row


# Choosing
