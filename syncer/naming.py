"""The names that content gets at a target: the mapping rules of ``--map``, and the names of packs, files, definitions.

The rules are described in docs/design.md, "Where images land".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from msgspec import Struct
from msgspec.structs import replace

from syncer.errors import InvalidFile, InvalidReference, UsageError
from syncer.formats.text import read_text
from syncer.formats.yaml import parse_yaml
from syncer.oci import Reference
from syncer.oci.docker_hub import canonical_host, meanings

if TYPE_CHECKING:
    from syncer.formats.yaml import Map


_ANY = "any"
"""This name stands for an image while the place of images is checked."""

_ANY_REGISTRY = "registry.invalid"
"""This name stands for the target while a repository's name is checked: a target may be a bare host name, and the
parser would read that as part of a Docker Hub name.
"""


_AT_THE_TARGET = "map to a path at the target, or to a full name at the very registry that is pushed to"


class Naming(StrEnum):
    """The tools whose names at a target can be had by rules of ``map``."""

    HAULER = "hauler"
    OC_MIRROR = "oc-mirror"
    SKOPEO = "skopeo"
    REGSYNC = "regsync"


class MappingRule(Struct, frozen=True):
    """Names that start with ``prefix``, on a path boundary, start with ``replacement`` at the target."""

    prefix: str
    replacement: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a value of ``--map``, ``PREFIX=REPLACEMENT``; raises ``UsageError``."""
        prefix, equals, replacement = text.partition("=")
        if not equals:
            raise UsageError(
                f"{text!r} is not a mapping of names",
                hint="write it like --map quay.io/kairos=mirror/kairos, or name a file of registryMappingRules",
            )
        return cls.of(prefix, replacement)

    @classmethod
    def of(cls, prefix: str, replacement: str) -> Self:
        """Make a rule of its two halves, without slashes around them; raises ``UsageError``.

        The replacement is a path, a full name, or empty: it must be one that a registry could have.
        """
        prefix, replacement = prefix.strip().strip("/"), replacement.strip().strip("/")
        if "://" in prefix or "://" in replacement:
            raise UsageError(
                f"the mapping {prefix}={replacement} has an address in it, and names have no scheme",
                hint="leave http://, https:// and oci:// out",
            )
        host, _, path = prefix.partition("/")
        if not (set(host) & set(".:[") or host == "localhost"):
            raise UsageError(
                f"the mapping {prefix}={replacement} must start with a registry",
                hint=f"short Docker names are spelt out, like docker.io/library/{prefix or 'busybox'}",
            )
        new_host, _, new_path = replacement.partition("/")
        port = "" if new_host.endswith("]") else new_host.rpartition(":")[2]
        is_tag = ":" in new_host and port != "" and not port.isdigit()
        if is_tag or set(path + new_path) & set(":@") or "@" in new_host:
            raise UsageError(
                f"the mapping {prefix}={replacement} names a tag or a digest",
                hint="a mapping changes registries and repositories; tags stay as they are",
            )
        is_full = ":" in new_host or ("." in new_host and new_host != new_host.lower())
        try:
            Reference.parse(f"{new_host}/{new_path or _ANY}" if is_full else f"{_ANY_REGISTRY}/{replacement or _ANY}")
        except InvalidReference as error:
            raise UsageError(
                f"the mapping {prefix}={replacement} makes names that no registry can have: {error.problem}",
                hint=_AT_THE_TARGET,
            ) from None
        host = canonical_host(host.lower())
        return cls(f"{host}/{path}" if path else host, replacement)

    def misplaced(self, registry: str, base: str) -> UsageError | None:
        """The mistake that its names can lie nowhere under the path ``base`` of ``registry``, if they cannot."""
        host, _, path = self.replacement.partition("/")
        if canonical_host(host.lower()) == registry:
            is_under = not base or f"{path}/".startswith(f"{base}/")
            return None if is_under else _not_under(self.prefix, self.replacement, registry, base)
        if ":" not in host:
            return None
        return UsageError(
            f"{self.prefix} is mapped to {self.replacement}, which is at another registry than {registry}",
            hint=_AT_THE_TARGET,
        )

    def apply(self, name: str) -> str | None:
        """The new name for ``name`` (``registry/repository``); None when it does not start with the prefix."""
        if name == self.prefix:
            return self.replacement
        if name.startswith(f"{self.prefix}/"):
            return f"{self.replacement}{name[len(self.prefix) :]}".lstrip("/")
        return None


class NameMapping(Struct, frozen=True):
    """The mapping rules of one run.

    The rule with the longest matching prefix decides; a name that no rule matches keeps its full source name.

    >>> mapping = NameMapping.parse(["quay.io/kairos=mirror"])
    >>> str(mapping.target(Reference.parse("quay.io/kairos/core:v1"), registry="10.0.0.1:8000", base="base"))
    '10.0.0.1:8000/base/mirror/core:v1'
    """

    rules: tuple[MappingRule, ...] = ()  # longest prefix first

    @classmethod
    def of(cls, rules: Iterable[MappingRule]) -> Self:
        """Make a mapping of ``rules``; raises ``UsageError`` when one prefix has two replacements.

        A short prefix (``docker.io/busybox``) also matches the long one that it stands for
        (``docker.io/library/busybox``), unless another rule has the long one.
        """
        replacements: dict[str, str] = {}
        for rule in rules:
            known = replacements.setdefault(rule.prefix, rule.replacement)
            if known != rule.replacement:
                raise UsageError(f"{rule.prefix} is mapped twice, to {known!r} and to {rule.replacement!r}")
        for prefix in tuple(replacements):
            for meaning in meanings(prefix):
                replacements.setdefault(meaning, replacements[prefix])
        ordered = sorted(replacements, key=lambda prefix: (-len(prefix), prefix))
        return cls(tuple(MappingRule(prefix, replacements[prefix]) for prefix in ordered))

    def before(self, other: NameMapping) -> NameMapping:
        """The rules of both; of two for one prefix the own one holds."""
        own = {rule.prefix for rule in self.rules}
        return NameMapping.of([*self.rules, *(rule for rule in other.rules if rule.prefix not in own)])

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Make a mapping of the values of ``--map``; raises ``UsageError``."""
        return cls.of(map(MappingRule.parse, texts))

    @classmethod
    def from_document(cls, rules: Mapping[str, str]) -> Self:
        """Make a mapping of a document's ``registryMappingRules``; raises ``UsageError``."""
        return cls.of(MappingRule.of(prefix, replacement) for prefix, replacement in rules.items())

    @property
    def fingerprint(self) -> str:
        """A digest by which two runs tell whether they map names by the same rules."""
        rules = "".join(f"{rule.prefix}={rule.replacement}\n" for rule in self.rules)
        return f"sha256:{hashlib.sha256(rules.encode()).hexdigest()}"

    def target(self, reference: Reference, *, registry: str, base: str = "") -> Reference:
        """The name of ``reference`` under the path ``base`` of ``registry`` (``host[:port]``).

        A replacement that starts with ``registry`` itself, as Palette's rules do, is a full name already;
        it must lie under ``base``.  Raises ``UsageError`` for a name that no registry could hold.
        """
        base = base.strip("/")
        mapped = self._mapped(reference)
        host, _, path = (mapped or "").partition("/")
        if mapped is None:
            repository = _join(base, reference.path)
        elif canonical_host(host.lower()) == registry:
            repository = path
            if base and not repository.startswith(f"{base}/"):
                raise _not_under(reference.name, mapped, registry, base)
        else:
            repository = _join(base, mapped)
        return rename_reference(reference, registry=registry, repository=repository)

    def targets(self, references: Iterable[Reference], *, registry: str, base: str = "") -> dict[Reference, Reference]:
        """The name of each reference at the target, by reference.

        Raises ``UsageError`` when two repositories would overwrite each other's tags.
        """
        named = {reference: self.target(reference, registry=registry, base=base) for reference in references}
        require_distinct(named.items())
        return named

    def _mapped(self, reference: Reference) -> str | None:
        name = f"{reference.registry.lower()}/{reference.repository}"
        return next((mapped for rule in self.rules if (mapped := rule.apply(name)) is not None), None)


def read_mapping(arguments: Iterable[str]) -> NameMapping:
    """Read the rules from the values of ``--map``; a value without ``=`` is the path of a file.

    Raises ``UsageError``, which names the line of a file.
    """
    return NameMapping.of(rule for argument in arguments for rule in _rules(argument))


def _rules(argument: str) -> Iterator[MappingRule]:
    if "=" in argument or not Path(argument).is_file():
        yield MappingRule.parse(argument)
    else:
        yield from read_mapping_file(Path(argument))


Named: TypeAlias = tuple[Reference, Reference]
"""The names of an image at its source and at its target."""


def require_distinct(names: Iterable[Named]) -> None:
    """Raise ``UsageError`` when two repositories would overwrite each other's tags."""
    for (first, _), (second, target) in find_clashes(names):
        raise UsageError(
            f"{first.path} and {second.path} are both mapped to {target}", hint="map each of them to a different name"
        )


def find_clashes(names: Iterable[Named]) -> Iterator[tuple[Named, Named]]:
    """Find images of two repositories that would have one name at their target."""
    origins: dict[tuple[str, str], Named] = {}
    for each in names:
        source, target = each
        first = origins.setdefault((target.name, target.tag or str(target.digest)), each)
        if first[0].path != source.path:
            yield first, each


def rename_reference(reference: Reference, *, registry: str, repository: str) -> Reference:
    """``reference`` under another name; raises ``UsageError`` for a name that no registry can have."""
    if ":" in repository:
        raise UsageError(
            f"{reference.name} would land at {registry}/{repository}, and a repository's name holds no colon",
            hint=_AT_THE_TARGET,
        )
    try:
        Reference.parse(f"{_ANY_REGISTRY}/{repository}")
    except InvalidReference as error:
        raise UsageError(
            f"{reference.name} would land at {registry}/{repository}, which is no valid name: {error.problem}"
        ) from None
    return replace(reference, registry=registry, repository=repository)


def _not_under(name: str, mapped: str, registry: str, base: str) -> UsageError:
    return UsageError(
        f"{name} is mapped to {mapped}, which is not under {registry}/{base}",
        hint="name the registry without the path, or map to a name below it",
    )


def _join(base: str, path: str) -> str:
    return f"{base}/{path}" if base else path


_FIELD = "registryMappingRules"
_PLACES = ((), ("externalRegistries",), ("stylus", "externalRegistries"))
"""The paths at which a file may have the rules; the last one is their path in the user data of an edge host."""


def read_mapping_file(path: Path) -> list[MappingRule]:
    """The rules in the YAML file at ``path``; raises ``InvalidFile``."""
    tree = parse_yaml(read_text(path), path)
    rules = _rules_in(tree)
    if rules is None:
        problem = "it is empty" if tree is None else f"it has no {_FIELD}"
        raise InvalidFile(path, problem, hint=f"write `{_FIELD}:` and below it lines like `quay.io/kairos: kairos`")
    read, mistakes = [], []
    for prefix in rules:
        try:
            read.append(_rule_at(path, rules, prefix))
        except InvalidFile as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise InvalidFile.of(mistakes)
    return read


def _rules_in(tree: Any) -> Map | None:
    for place in _PLACES:
        node = tree
        for step in (*place, _FIELD):
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(node, dict):
            return cast("Map", node)
    return None


def _rule_at(path: Path, rules: Map, prefix: str) -> MappingRule:
    replacement = rules[prefix]
    line = rules.lines[prefix]
    if not isinstance(replacement, str):
        raise InvalidFile(path, f"{_FIELD}.{prefix}: it must be a text", line=line)
    try:
        return MappingRule.of(prefix, replacement)
    except UsageError as error:
        raise InvalidFile(path, f"{_FIELD}: {error}", line=line, hint=error.hint) from None


REPOSITORY = "bundle-definition"
"""The repository of definitions, below the base path that a bundle is pushed to; the bundle's name is the tag."""


def names_at(
    registry: str, base: str, references: Iterable[Reference], mapping: NameMapping | None = None
) -> dict[Reference, Reference]:
    """The name of each reference under the path ``base`` of ``registry`` (``host[:port]``), packs and files included.

    Raises ``UsageError`` for a name that no registry could hold, and when two repositories would overwrite each
    other's tags.
    """
    return complete_mapping(mapping, base).targets(references, registry=registry, base=base)


def complete_mapping(mapping: NameMapping | None, base: str) -> NameMapping:
    """Add rules to ``mapping`` that put packs and files, which come from no registry, right below the base path.

    A base path that ends in ``spectro-packs`` itself, as the project of a primary registry, is not repeated.
    """
    packs = f"{PACKS_HOST}/{PACKS}" if base.rpartition("/")[2] == PACKS else PACKS_HOST
    rules = (mapping or NameMapping()).rules
    taken = {rule.prefix.partition("/")[0] for rule in rules}
    usual = [MappingRule(prefix, "") for prefix in (packs, FILES_HOST) if prefix.partition("/")[0] not in taken]
    return NameMapping.of([*rules, *usual])


PACKS_HOST = "packs.invalid"
"""This name stands for the registry in a pack's name, since a pack from a file has none.  At the target it becomes
nothing: a rule maps ``packs.invalid`` to the empty name.
"""


PACKS = "spectro-packs"
"""The path of packs, below the base path of the registry that Palette installs them from."""


FILES_HOST = "files.invalid"
"""This name stands for the registry in a file's name, and becomes nothing as well."""
