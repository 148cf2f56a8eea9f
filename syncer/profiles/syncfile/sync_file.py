"""A sync file, read and ready for use: ``syncer sync -c sync.yaml``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syncer.content import Item
from syncer.errors import InvalidFile, UsageError
from syncer.formats.models import check
from syncer.formats.text import read_text
from syncer.formats.yaml import Step, line_of, parse_yaml, spell_path
from syncer.naming import NameMapping, renamed, require_distinct
from syncer.oci import Platform, Reference
from syncer.profiles.syncfile.document import Source, SyncDocument, Target, registry_host
from syncer.profiles.syncfile.tags import TagPattern, select, unmatched


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a repository's rules made of its tags."""

    references: tuple[Reference, ...]
    unmatched: tuple[TagPattern, ...]  # that fit no tag: worth a warning


@dataclass(frozen=True, slots=True)
class SyncFile:
    """The document, and where in the file its parts stand."""

    path: Path
    document: SyncDocument
    tree: Any = field(repr=False)
    order: Mapping[int, int] = field(repr=False)  # each source's number, by identity: two may be equal

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.document.sources

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.document.targets

    @property
    def asks_palette(self) -> bool:
        """Whether Palette is to be asked for profiles."""
        return any(source.profiles for source in self.sources)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works, and should not be done."""
        return tuple(
            f"{self._place('registries', written, 'credentials', 'password')}: the password of {host} stands in the "
            "file; name a variable (password_env) or a file (password_file) instead"
            for written, host in self.registry_names()
            if (given := self.document.registries[host].credentials) and given.password is not None
        )

    def place(self, source: Source) -> str:
        """``sync.yaml:12``: where ``source`` stands, for warnings and errors about it."""
        return self._place("sources", self.order[id(source)])

    def beside(self, path: Path) -> Path:
        """A path that the file names, which is relative to the file."""
        return self.path.parent / path.expanduser()

    def targets_of(self, source: Source) -> tuple[Target, ...]:
        """Where ``source`` goes, in the order of the file."""
        return tuple(target for target in self.targets if not source.targets or target.title in source.targets)

    def platforms_of(self, source: Source) -> tuple[Platform, ...]:
        """What indexes are reduced to; nothing: they keep their form."""
        return self.document.platforms if source.platforms is None else source.platforms

    def referrers_of(self, source: Source) -> bool:
        """Whether signatures and other referrers travel along."""
        return bool(self._referrers_choice(source))

    def requires_referrers_of(self, source: Source) -> bool:
        """Whether it is a failure that what refers to the images cannot be told."""
        return self._referrers_choice(source) == "require"

    def _referrers_choice(self, source: Source) -> bool | str:
        return self.document.referrers if source.referrers is None else source.referrers

    def mapping_of(self, target: Target) -> NameMapping:
        """The rules for names at ``target``: its own, then those of the whole file."""
        parts = map(NameMapping.from_document, (self.document.map, target.map))
        return NameMapping.of({rule.prefix: rule for part in parts for rule in part.rules}.values())

    def item(self, source: Source, reference: Reference, target: Target, *, registry: str, base: str) -> Item:
        """What to transfer for ``reference``, an image of ``source``, to ``target``, which is ``base`` at ``registry``.

        Raises ``UsageError`` for a name that no registry could hold.
        """
        return Item(
            reference,
            self._land(source, reference, target, registry, base),
            wanted_by=(self.place(source),),
            platforms=self.platforms_of(source),
            referrers=self.referrers_of(source),
            requires_referrers=self.requires_referrers_of(source),
        )

    def _land(self, source: Source, reference: Reference, target: Target, registry: str, base: str) -> Reference:
        landing = source.landing
        if landing is None:
            return self.mapping_of(target).target(reference, registry=registry, base=base)
        path = "/".join(filter(None, (base.strip("/"), landing.repository)))
        name = renamed(reference, registry=registry, repository=path)
        return replace(name, tag=landing.tag) if landing.tag else name

    def registry_names(self) -> Iterator[tuple[str, str]]:
        """Each key of ``registries``, as it is written and as references write it."""
        keys = (self.tree or {}).get("registries") or self.document.registries  # flags have no tree
        return ((written, registry_host(written)) for written in keys)

    def _place(self, *path: Step) -> str:
        line = line_of(self.tree, path)
        return f"{self.path}:{line}" if line else str(self.path)


def read_sync_file(path: Path) -> SyncFile:
    """The sync file at ``path``; raises ``InvalidFile``, which names the line and the field."""
    return parse_sync_file(read_text(path), path)


def parse_sync_file(text: str, path: Path) -> SyncFile:
    """As ``read_sync_file``, for text that was read from ``path``."""
    tree = parse_yaml(text, path)
    document = check(SyncDocument, tree, path)
    order = {id(source): number for number, source in enumerate(document.sources)}
    file = SyncFile(path, document, tree, order)
    _check_targets(file)
    _check_registries(file)
    return file


def choose(source: Source, listing: Sequence[str]) -> Chosen:
    """The images of a ``repository`` source, given the tags that it lists (none, if the rules need no listing)."""
    if source.repository is None or source.tags is None:
        raise ValueError("only a repository has tags to choose from")
    rules = source.tags.rules()
    references = tuple(source.repository.tagged(tag) for tag in select(listing, rules))
    return Chosen(references, tuple(unmatched(listing, rules)))


def merge_items(items: Iterable[Item]) -> list[Item]:
    """``items`` in their order, each way from a source to a target once, with all who want it.

    Raises ``UsageError`` when one way is asked for in two forms, or two ways end in one name.
    """
    merged: dict[tuple[Reference, Reference], Item] = {}
    for item in items:
        known = merged.setdefault((item.source, item.target), item)
        if known is item:
            continue
        wanted_by = (*known.wanted_by, *item.wanted_by)
        if replace(known, wanted_by=wanted_by) != replace(item, wanted_by=wanted_by):
            raise UsageError(
                f"{item.source} is asked for in two forms, by {known.wanted_by[0]} and by {item.wanted_by[0]}",
                hint="let both name the same platforms and referrers, or give one another name with `as`",
            )
        merged[item.source, item.target] = replace(known, wanted_by=wanted_by)
    require_distinct(merged)
    return list(merged.values())


def _check_targets(file: SyncFile) -> None:
    titles: set[str] = set()
    for index, target in enumerate(file.targets):
        if target.title in titles:
            raise _error(file, f"{target.title!r} is the second target of that name", "targets", index)
        titles.add(target.title)
    for index, source in enumerate(file.sources):
        for place, name in enumerate(source.targets):
            if name not in titles:
                known = ", ".join(sorted(titles))
                raise _error(file, f"no target is called {name!r}; known: {known}", "sources", index, "targets", place)


def _check_registries(file: SyncFile) -> None:
    """One registry under two names is no mistake as long as both say the same."""
    first: dict[str, str] = {}
    settings = file.tree.get("registries") or {}
    for written, host in file.registry_names():
        known = first.setdefault(host, written)
        if settings[known] != settings[written]:
            raise _error(file, f"{known} above is the same registry, and says something else", "registries", written)


def _error(file: SyncFile, problem: str, *path: Step) -> InvalidFile:
    return InvalidFile(file.path, f"{spell_path(path)}: {problem}", line=line_of(file.tree, path))
