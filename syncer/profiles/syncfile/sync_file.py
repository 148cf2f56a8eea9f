"""Reading a sync file (``syncer sync -c sync.yaml``), and making items of its sources."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

from msgspec import Struct, structs

from syncer.content import Along, Item
from syncer.errors import InvalidFile, UsageError, hide
from syncer.formats.models import Model, check, names_of_fields
from syncer.formats.text import read_text, unreadable
from syncer.formats.yaml import Map, Step, line_of, mistake_at, parse_yaml
from syncer.naming import MappingRule, NameMapping, find_clashes, rename_reference
from syncer.oci import Platform, Reference
from syncer.oci.reference import registry_place, target_key
from syncer.profiles.syncfile.document import (
    Registry,
    Source,
    SyncDocument,
    Target,
    check_registry,
    parse_registry_host,
)
from syncer.profiles.syncfile.tags import TagPattern, select_tags, unmatched_patterns
from syncer.profiles.syncfile.variables import Expansion, absent_logins

_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
_ELSEWHERE = "docs/sync.md and docs/sites.md show them; syncer import makes sync files of those of other tools"


class TagSelection(Struct, frozen=True):
    """The images that the rules of a repository select from its tags."""

    references: tuple[Reference, ...]
    unmatched: tuple[TagPattern, ...]  # patterns that match no tag: worth a warning


class RegistriesFile(Struct, frozen=True, kw_only=True):
    """A file with settings for single registries, ``by_host``, and the lines of its parts."""

    path: Path
    by_host: Mapping[str, Registry]
    tree: Any  # None: a program made it, and nothing has a line
    from_variables: AbstractSet[tuple[Step, ...]] = frozenset()  # places in the tree

    def __repr__(self) -> str:  # the tree may hold a password
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about passwords that stand in the file itself."""
        return tuple(
            f"{self._place(*place)}: the password of {host} stands in the "
            "file; name a variable (password_env) or a file (password_file) instead"
            for written, host in self.registry_names()
            if (given := self.by_host[host].credentials) and given.password is not None
            if (place := ("registries", written, "credentials", "password")) not in self.from_variables
        )

    def beside(self, path: Path) -> Path:
        """The path of a file that this one names relative to itself."""
        return self.path.parent / path.expanduser()

    def registry_names(self) -> Iterator[tuple[str, str]]:
        """Yield each key of ``registries``, as the file spells it and as references spell it."""
        keys = (self.tree or {}).get("registries") or self.by_host
        return ((written, parse_registry_host(written)) for written in keys)

    def mistake(self, problem: str, *place: Step) -> InvalidFile:
        """Make the error about the value at ``place`` in the file, such as ``"registries", "docker.io"``."""
        return mistake_at(self.tree, self.path, problem, *place)

    def _place(self, *path: Step) -> str:
        line = line_of(self.tree, path)
        return f"{self.path}:{line}" if line else str(self.path)


class SyncFile(RegistriesFile, frozen=True, kw_only=True):
    """A sync file: its document, and the lines of its parts."""

    document: SyncDocument
    order: Mapping[int, int]  # each source's number, by identity: two may be equal

    @classmethod
    def of(
        cls,
        document: SyncDocument,
        path: Path,
        tree: Any = None,
        *,
        from_variables: AbstractSet[tuple[Step, ...]] = frozenset(),
    ) -> Self:
        """``document``, which was read from ``path`` as ``tree``; without a tree nothing has a line.

        ``from_variables`` are the places of values that the environment gave.
        Raises ``InvalidFile`` for targets of one name or one place, and for names of targets that are not there.
        """
        if tree is None and (mistakes := list(_target_mistakes(_names(document), path))):
            raise InvalidFile.of(mistakes)
        order = {id(source): number for number, source in enumerate(document.sources)}
        return cls(
            path=path,
            by_host=document.registries,
            tree=tree,
            from_variables=from_variables,
            document=document,
            order=order,
        )

    def with_defaults(
        self,
        *,
        platform: Platform | None = None,
        referrers: Along | None = None,
        mapping: NameMapping | None = None,
    ) -> Self:
        """This file with other values at its top level; what a source or a target says for itself stays.

        ``mapping`` takes the place of the rules for the same prefixes, and joins the others.
        """
        document = self.document
        rules = {rule.prefix: rule.replacement for rule in mapping.rules} if mapping else {}
        kept = (rule for rule in NameMapping.from_document(document.map).rules if rule.prefix not in rules)
        changes = {
            "platforms": document.platforms if platform is None else (platform,),
            "referrers": document.referrers if referrers is None else referrers,
            "map": {rule.prefix: rule.replacement for rule in kept} | rules,
        }
        return structs.replace(self, document=structs.replace(document, **changes))

    def for_target(self, title: str) -> Self:
        """This file with the target ``title`` alone, and the sources that go there."""
        target = next(target for target in self.targets if target.title == title)
        sources = tuple(source for source in self.sources if target in self.targets_of(source))
        return structs.replace(self, document=structs.replace(self.document, sources=sources, targets=(target,)))

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.document.sources

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.document.targets

    @property
    def asks_palette(self) -> bool:
        """True when a source names profiles of Palette."""
        return any(source.profiles for source in self.sources)

    def blame(self, source: Source, error: UsageError) -> UsageError:
        """The ``error`` about what ``source`` asks for, with its place in the file, if it has one."""
        if self.tree is None or isinstance(error, InvalidFile):
            return error
        return mistake_at(self.tree, self.path, str(error), "sources", self.order[id(source)], hint=error.hint)

    def place(self, source: Source) -> str:
        """The file and line of ``source``, ``sync.yaml:12``, for warnings and errors about it."""
        return self._place("sources", self.order[id(source)])

    def targets_of(self, source: Source) -> tuple[Target, ...]:
        """The targets of ``source``, in the order of the file."""
        return tuple(target for target in self.targets if not source.targets or target.title in source.targets)

    def platforms_of(self, source: Source) -> tuple[Platform, ...]:
        """The platforms that indexes of ``source`` are reduced to; without any they stay as they are."""
        return self.document.platforms if source.platforms is None else source.platforms

    def referrers_of(self, source: Source) -> bool:
        """Tell whether signatures and other referrers of ``source`` are mirrored too."""
        return bool(self._referrers_choice(source))

    def requires_referrers_of(self, source: Source) -> bool:
        """Tell whether it is a failure that the referrers of the images cannot be listed."""
        return self._referrers_choice(source) == "require"

    def _referrers_choice(self, source: Source) -> bool | str:
        return self.document.referrers if source.referrers is None else source.referrers

    def mapping_of(self, target: Target) -> NameMapping:
        """The mapping rules for ``target``: its own, then those of the whole file."""
        return _mapping(tuple(self.document.map.items()), tuple(target.map.items()))

    def item(self, source: Source, reference: Reference, target: Target, *, registry: str, base: str) -> Item:
        """The item for the image ``reference`` of ``source``, with its name at ``target``.

        ``target`` is the path ``base`` of ``registry``.  Raises ``UsageError`` for a name that no registry can have.
        """
        return Item(
            reference,
            self._target_name(source, reference, target, registry, base),
            wanted_by=(self.place(source),),
            platforms=self.platforms_of(source),
            referrers=self.referrers_of(source),
            requires_referrers=self.requires_referrers_of(source),
        )

    def _target_name(self, source: Source, reference: Reference, target: Target, registry: str, base: str) -> Reference:
        custom_name = source.custom_name
        if custom_name is None:
            return self.mapping_of(target).target(reference, registry=registry, base=base)
        path = "/".join(filter(None, (base.strip("/"), custom_name.repository)))
        name = rename_reference(reference, registry=registry, repository=path)
        return structs.replace(name, tag=custom_name.tag) if custom_name.tag else name


def read_sync_file(path: Path, environment: Mapping[str, str] = _NO_VARIABLES, *, logins_here: bool = True) -> SyncFile:
    """Read the sync file at ``path``; its variables (``${NAME}``) are looked up in ``environment``.

    The variables of its credentials are hidden from now on (``errors.hide``).  Raises ``InvalidFile`` with all its
    mistakes, each with line and field; a list, a profile or values of a chart that cannot be read are among them.
    With ``logins_here`` the logins and certificates that are not there are told beside these, and else by
    ``sync_settings``.
    """
    draft = _draft(read_text(path), path, environment)
    draft.add(_unreadable_files(draft.tree, path))
    return SyncFile.of(
        draft.finish(path, environment if logins_here else None),
        path,
        draft.tree,
        from_variables=draft.from_variables,
    )


def parse_sync_file(text: str, path: Path, environment: Mapping[str, str] = _NO_VARIABLES) -> SyncFile:
    """Parse ``text``, the content of the file ``path``; as ``read_sync_file``, but for the files that it names."""
    draft = _draft(text, path, environment)
    return SyncFile.of(draft.finish(path, None), path, draft.tree, from_variables=draft.from_variables)


def check_sync_file(text: str, path: Path) -> None:
    """Raise ``InvalidFile`` for the mistakes in ``text``, as far as they show before its variables have values."""
    if mistakes := _draft(text, path, None).mistakes:
        raise InvalidFile.of(mistakes)


def _draft(text: str, path: Path, environment: Mapping[str, str] | None) -> Draft[SyncDocument]:
    draft = Draft.read(SyncDocument, text, path, environment, expected="a sync file has `sources` and `targets`")
    draft.add(_target_mistakes(draft.tree, path, draft.expansion))
    draft.add(_map_mistakes(draft.tree, path))
    return draft


Document = TypeVar("Document", bound=Model)


class Draft(Struct, Generic[Document]):
    """A file as far as it could be read: its document if there is no mistake in it, and all mistakes."""

    document: Document | None
    tree: Map
    expansion: Expansion
    mistakes: list[InvalidFile]

    @classmethod
    def read(
        cls,
        model: type[Document],
        text: str,
        path: Path,
        environment: Mapping[str, str] | None,
        *,
        expected: str,
    ) -> Self:
        """Read ``text`` as the ``model`` of a file with registries, its variables from ``environment``.

        Raises ``InvalidFile`` for what is no YAML or no mapping; then ``expected`` says what such a file has.
        """
        repeated: list[InvalidFile] = []
        written = parse_yaml(text, path, repeated=repeated)
        if not isinstance(written, Map):
            is_what = "it is empty" if written is None else "it must be a mapping"
            raise InvalidFile(path, f"{is_what}, and {expected}", line=1, hint=_ELSEWHERE)
        expansion = Expansion(environment, path)
        tree = expansion.expand(written)
        hide(expansion.secrets)  # before anything is said about the values
        expansion.unknown |= {each.field for each in repeated}  # which value is meant is not known
        draft = cls(None, tree, expansion, [*repeated, *expansion.mistakes])
        try:
            draft.document = check(model, tree, path, line=1)
        except InvalidFile as invalid:
            draft.add(invalid.all)
        draft.add(_registry_mistakes(tree, path))
        return draft

    def finish(self, path: Path, environment: Mapping[str, str] | None) -> Document:
        """The document; raises ``InvalidFile`` with all mistakes.

        With an ``environment`` logins and certificates that are not there are told beside them.
        """
        if self.document is not None and not self.mistakes:
            return self.document
        if environment is not None:
            self.add(absent_logins(self.tree, path, environment))
        raise InvalidFile.of(self.mistakes)

    @property
    def from_variables(self) -> AbstractSet[tuple[Step, ...]]:
        """The places of the values that the environment gave."""
        return self.expansion.places

    def add(self, mistakes: Iterable[InvalidFile]) -> None:
        """Add ``mistakes``, but for those about values that are not known."""
        single = [one for each in mistakes for one in each.all]
        for one in single:
            one.more = ()
        self.mistakes += (one for one in single if not self.expansion.leaves_open(one.field))


def select_images(source: Source, listing: Sequence[str]) -> TagSelection:
    """Select the images of a ``repository`` source from ``listing``, its tags.

    ``listing`` may be empty when the rules need no listing.
    """
    if source.repository is None or source.tags is None:
        raise ValueError("only a repository has tags to select from")
    rules = source.tags.rules()
    references = tuple(source.repository.tagged(tag) for tag in select_tags(listing, rules))
    return TagSelection(references, tuple(unmatched_patterns(listing, rules)))


def merge_items(items: Iterable[Item]) -> list[Item]:
    """Merge ``items`` of the same source and target name into one, which names all that want it; the order stays.

    Raises ``InvalidFile``, with the places that want them, for all that name different platforms or referrers, and for
    images of two repositories that would get one name.
    """
    merged: dict[tuple[Reference, Reference], Item] = {}
    mistakes: list[InvalidFile] = []
    for item in items:
        known = merged.setdefault((item.source, item.target), item)
        if known is item:
            continue
        here, there = item.wanted_by[0], known.wanted_by[0]
        wanted_by = (*known.wanted_by, *item.wanted_by)
        if structs.replace(known, wanted_by=wanted_by) != structs.replace(item, wanted_by=wanted_by):
            hint = "let both name the same platforms and referrers, or give one another name with `as`"
            problem = f"{item.source} is asked for in two forms, here and by {there}"
            mistakes.append(InvalidFile(here, problem, hint=hint))
        merged[item.source, item.target] = structs.replace(known, wanted_by=wanted_by)
    for first, second in find_clashes(merged):
        here, there = merged[second].wanted_by[0], merged[first].wanted_by[0]
        problem = f"{first[0].path}, of {there}, and {second[0].path} are both mapped to {second[1]}"
        mistakes.append(InvalidFile(here, problem, hint="map each of them to a different name"))
    if mistakes:
        raise InvalidFile.of(mistakes)
    return list(merged.values())


@lru_cache(maxsize=1000)  # each image at each target asks for it
def _mapping(*parts: tuple[tuple[str, str], ...]) -> NameMapping:
    """The rules of all ``parts``; the last one that has a prefix decides about it."""
    mappings = [NameMapping.from_document(dict(part)) for part in parts]
    return NameMapping.of({rule.prefix: rule for mapping in mappings for rule in mapping.rules}.values())


def _names(document: SyncDocument) -> dict[str, Any]:
    """The names of targets in a document that a program made, as the tree of a file has them."""
    return {
        "targets": [{"registry": each.registry, "name": each.name, "map": each.map} for each in document.targets],
        "sources": [{"targets": list(source.targets)} for source in document.sources],
    }


def _target_mistakes(tree: dict[str, Any], path: Path, expansion: Expansion | None = None) -> Iterator[InvalidFile]:
    """Find targets of one place or one name, and names of targets that are not there, whatever else is wrong.

    Two that give images other names by rules of their own may be one place.
    """
    titles: set[str] = set()
    places: dict[tuple[str, ...], int] = {}
    for index, target in _entries(tree, "targets"):
        registry, own = target.get("registry"), target.get("map")
        title = target.get("name") or registry
        place = target_key(registry) if registry and _place_of(registry) else ""
        key = (place, *sorted(map(str, own.items() if isinstance(own, dict) else ())))
        first = places.setdefault(key, index) if place else index
        if first != index:
            line = line_of(tree, ("targets", first))
            there = f"at {path}:{line}" if line else f"as targets[{first}]"
            hint = "leave one of them out; two at one place give images other names, each by its own `map`"
            yield mistake_at(tree, path, f"{place} is a target already, {there}", "targets", index, hint=hint)
        elif isinstance(title, str) and title in titles:
            yield mistake_at(tree, path, f"{title!r} is the second target of that name", "targets", index)
        if isinstance(title, str):
            titles.add(title)
    yield from _absent_targets(tree, path, titles, expansion)


def _absent_targets(
    tree: dict[str, Any], path: Path, titles: Collection[str], expansion: Expansion | None
) -> Iterator[InvalidFile]:
    """Find names of targets that none is called; not as long as one has a name that is not known."""
    targets = tree.get("targets")
    perhaps: list[Any] = [each for each in targets if isinstance(each, str)] if isinstance(targets, list) else []
    for index, target in _entries(tree, "targets"):
        places = ("targets", *(f"targets[{index}].{name}" for name in ("name", "registry")))
        if expansion and any(map(expansion.leaves_open, places)):
            return
        stray = [value for name, value in target.items() if name not in names_of_fields(Target)]
        if not isinstance(target.get("name") or target.get("registry"), str) and not stray:
            return
        perhaps += stray
    known = f"{', '.join(sorted(titles)[:10])}{', …' if len(titles) > 10 else ''}"
    for index, source in _entries(tree, "sources") if titles else ():
        wanted = source.get("targets")
        names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
        for place, name in enumerate(names):
            if isinstance(name, str) and name not in titles and name not in perhaps:
                problem = f"no target is called {name!r}; known: {known}"
                yield mistake_at(tree, path, problem, "sources", index, "targets", place)


_NAMING_FILES = ("images_file", "profile_file", "chart")  # fields of sources


def _unreadable_files(tree: dict[str, Any], path: Path) -> Iterator[InvalidFile]:
    """Find the files that sources name and nobody can read, whatever else is wrong with these."""
    for index, source in _entries(tree, "sources"):
        if source.keys().isdisjoint(_NAMING_FILES):
            continue
        chart = source.get("chart")
        values = chart.get("values_files") if isinstance(chart, dict) else None
        listed = enumerate(values if isinstance(values, list) else [values])
        named: list[tuple[tuple[Step, ...], Any]] = [((name,), source.get(name)) for name in _NAMING_FILES[:2]]
        for place, name in [*named, *((("chart", "values_files", number), each) for number, each in listed)]:
            if isinstance(name, str):
                file = path.parent / Path(name).expanduser()
                if problem := unreadable(file, or_directory=place == ("profile_file",)):
                    yield mistake_at(tree, path, problem, "sources", index, *place)


def _entries(tree: dict[str, Any], field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The mappings in the list ``field`` with their places."""
    entries = tree.get(field)
    return ((n, each) for n, each in enumerate(entries if isinstance(entries, list) else ()) if isinstance(each, dict))


def _place_of(registry: Any) -> tuple[str, str] | None:
    """The host and the path of the ``registry`` of a target, if it is one."""
    try:
        return registry_place(check_registry(registry)) if isinstance(registry, str) else None
    except UsageError:
        return None


def _map_mistakes(tree: dict[str, Any], path: Path) -> Iterator[InvalidFile]:
    """Find rules for names whose place is at none of their targets; the model tells what is wrong with a rule alone."""
    targets = list(_entries(tree, "targets"))
    places = [place for _, target in targets if (place := _place_of(target.get("registry")))]
    if len(places) == len(targets):  # else they may be meant for one that is to be mended
        yield from misplaced_rules(tree, path, tree.get("map"), places, "map")
    for index, target in targets:
        if place := _place_of(target.get("registry")):
            yield from misplaced_rules(tree, path, target.get("map"), [place], "targets", index, "map")


def misplaced_rules(
    tree: dict[str, Any], path: Path, rules: Any, places: Sequence[tuple[str, str]], *where: Step
) -> Iterator[InvalidFile]:
    """Find the ``rules`` for names, which stand at ``where``, that make no name at any of ``places``."""
    for prefix, replacement in rules.items() if isinstance(rules, dict) else ():
        try:
            rule = MappingRule.of(prefix, replacement)
        except (UsageError, AttributeError):
            continue
        problem = rule.misplaced(*places[0]) if places else None
        if problem and all(rule.misplaced(*place) for place in places):
            said = f"{rule.prefix} is mapped to {rule.replacement}, which is at none of the targets"
            said = str(problem) if len(places) == 1 else said
            yield mistake_at(tree, path, said, *where, prefix, hint=problem.hint)


def _registry_mistakes(tree: dict[str, Any], path: Path) -> Iterator[InvalidFile]:
    """Find keys of ``registries`` that name one registry and have different settings."""
    first: dict[str, str] = {}
    given = tree.get("registries")
    settings = given if isinstance(given, dict) else {}
    for written in settings:
        try:
            known = first.setdefault(parse_registry_host(written), written)
        except UsageError:
            continue
        if settings[known] != settings[written]:
            problem = f"{known} above is the same registry, and has other settings"
            yield mistake_at(tree, path, problem, "registries", written)
