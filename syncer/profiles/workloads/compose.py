"""Compose files (compose-spec.io): the images of their services.

A file is read as ``docker compose -f FILE config --images`` reads it: with the variables of the environment and of
``.env`` beside it, with ``extends`` and ``include``, and without the services of profiles that are not active.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field, structs

from syncer.errors import InvalidFile, UsageError
from syncer.formats.text import read_text
from syncer.formats.yaml import Map, Seq, Step, parse_documents
from syncer.oci import Platform, Reference
from syncer.profiles.palette.profile import FoundImage
from syncer.profiles.workloads.manifests import Mistakes, Workloads, expand

DEFAULT_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
"""The names under which compose looks for a file, in its order."""

_OVERRIDES = tuple(f"{stem}.override.{suffix}" for stem in ("compose", "docker-compose") for suffix in ("yml", "yaml"))
_NAMED = re.compile(r"(?:docker-)?compose(?:[.-][\w.-]+)?\.ya?ml")
_SERVICE_KEYS = frozenset({"image", "build", "extends", "provider"})
_OTHER_KEYS = frozenset({"pack", "content", "charts", "manifests", "apiVersion", "kind"})
_KEPT = ("image", "build", "platform", "provider", "pull_policy", "profiles", "volumes")
_LISTS = frozenset({"profiles", "volumes"})
_MAX_FILES = 100
_MAX_CHAIN = 50
_ASSIGNMENT = re.compile(
    r"""^\s*(?:export\s+)?(?P<name>[A-Za-z_][\w.-]*)\s*[=:][ \t]*
        (?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|(?P<plain>[^\n]*?))[ \t]*(?:[ \t]\#[^\n]*)?$""",
    re.MULTILINE | re.VERBOSE,
)
_TAG = re.compile(r"^[^#\n]*[:-][ \t]+!(reset|override)\b", re.MULTILINE)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def is_compose(documents: Sequence[Any], path: Path) -> bool:
    """Tell whether ``documents``, the content of the file at ``path``, are a compose file."""
    top = documents[0] if documents else None
    if not isinstance(top, Map):
        return False
    services = top.get("services")
    if _NAMED.fullmatch(path.name):
        return "services" in top or "include" in top
    if _OTHER_KEYS & top.keys() or not isinstance(services, Map):
        return False
    entries = list(services.values())
    return all(isinstance(entry, Map) for entry in entries) and any(_SERVICE_KEYS & entry.keys() for entry in entries)


def compose_files(directory: Path) -> list[Path]:
    """The files that compose itself takes in ``directory``: the one of the first usual name, and its override."""
    first = next((directory / name for name in DEFAULT_NAMES if (directory / name).is_file()), None)
    if first is None:
        return []
    return [first, *[directory / name for name in _OVERRIDES if (directory / name).is_file()][:1]]


def read_compose(paths: Sequence[Path], environment: Mapping[str, str], found: Mistakes) -> Workloads:
    """Read the images of the services in the files at ``paths``, of which later ones override earlier ones.

    ``environment`` wins over ``.env`` beside the first file.  Mistakes are added to ``found``.
    """
    reader = _Reader(found)
    directory = paths[0].parent
    variables = {"COMPOSE_PROJECT_NAME": _project_name(directory), **reader.variables(directory, (), environment)}
    if name := next((name for path in paths if (name := reader.name(path))), None):
        variables = {**variables, "COMPOSE_PROJECT_NAME": environment.get("COMPOSE_PROJECT_NAME", name)}
    services = reader.load(paths, variables)
    workloads = reader.workloads(services, variables.get("COMPOSE_PROFILES", ""))
    warnings = tuple(f"{paths[0]}: {warning}" for warning in workloads.warnings)
    return structs.replace(workloads, warnings=warnings, files=reader.files)


class _Field(Struct, frozen=True):
    """A value of a service, with the place that it came from and the variables of that place."""

    value: Any
    path: Path
    root: Any
    steps: tuple[Step, ...]
    variables: Mapping[str, str]


_Service = dict[str, list[_Field]]
"""The fields of a service; those that are no lists have one value, the last one."""


class _Reader(Struct):
    mistakes: Mistakes
    _documents: dict[Path, list[Any]] = field(default_factory=dict)
    _loading: list[Path] = field(default_factory=list)
    _loads: int = 0
    _extending: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def files(self) -> frozenset[Path]:
        """All files that were read."""
        return frozenset(self._documents)

    def name(self, path: Path) -> str | None:
        """The name that a file gives its project."""
        names = [root["name"] for root in self._read(path) if isinstance(root, Map) and "name" in root]
        return names[-1] if names and isinstance(names[-1], str) else None

    def variables(self, directory: Path, files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, str]:
        """The variables for a file in ``directory``: of ``files`` or else of ``.env`` there, and ``environment``."""
        chosen = files or [each for each in [directory / ".env"] if each.is_file()]
        variables: dict[str, str] = {}
        for file in chosen:
            try:
                variables |= read_env(file, {**variables, **environment})
            except InvalidFile as error:
                self.mistakes.found.append(error)
        return {**variables, **environment}

    def load(self, paths: Sequence[Path], variables: Mapping[str, str]) -> dict[str, _Service]:
        """The services in the files at ``paths``, with all that they extend and include."""
        merged: dict[str, _Service] = {}
        self._loads += len(paths)
        if self._loads > _MAX_FILES:
            raise InvalidFile(paths[0], f"it is one of more than {_MAX_FILES} files that include each other")
        loading = self._loading
        self._loading = [*loading, *(path.resolve() for path in paths)]
        for path in paths:
            for root in self._read(path):
                for name, service in self._document(path, root, variables).items():
                    merged[name] = _merge(merged.get(name, {}), service)
        self._loading = loading
        return merged

    def workloads(self, services: Mapping[str, _Service], active: str) -> Workloads:
        """The images of ``services``; those of profiles that are not ``active`` are named and left out."""
        chosen = {word.strip() for word in active.split(",") if word.strip()}
        images: list[FoundImage] = []
        warnings: list[str] = []
        for name, service in services.items():
            profiles = [text for each in service.get("profiles", ()) for text in self._texts(each)]
            if profiles and "*" not in chosen and not chosen & set(profiles):
                words = ", ".join(dict.fromkeys(profiles))
                warnings.append(
                    f"service {name} is left out, since its profile {words} is not active; "
                    f"COMPOSE_PROFILES={profiles[0]} takes it"
                )
                continue
            images += self._images(name, service, warnings)
        return Workloads(tuple(images), (), tuple(warnings), ("services of compose",))

    def _images(self, name: str, service: _Service, warnings: list[str]) -> Iterator[FoundImage]:
        if platform := self._text(service, "platform"):
            self._checked(service["platform"][0], lambda: Platform.parse(platform))
        if "image" in service and not ("build" in service and self._text(service, "pull_policy") == "build"):
            if image := self._text(service, "image"):
                yield from self._reference(service["image"][0], image, name, is_guess="build" in service)
        elif "build" in service:
            warnings.append(f"service {name} is built here, so there is no image of it to take")
        elif "provider" in service:
            warnings.append(f"service {name} is run by a provider, so there is no image of it to take")
        elif "broken" not in service:
            at = service[""][0]
            self._problem(at, at.steps, "it has neither an image nor a build")
        yield from self._volumes(name, service)

    def _volumes(self, name: str, service: _Service) -> Iterator[FoundImage]:
        """The images that are mounted as volumes."""
        for at in service.get("volumes", ()):
            for number, volume in enumerate(at.value if isinstance(at.value, Seq) else ()):
                if isinstance(volume, Map) and volume.get("type") == "image":
                    steps = (*at.steps, number, "source")
                    source = _Field(volume.get("source"), at.path, at.root, steps, at.variables)
                    for text in self._texts(source):
                        yield from self._reference(source, text, name)

    def _reference(self, at: _Field, text: str, name: str, *, is_guess: bool = False) -> Iterator[FoundImage]:
        found = self._checked(at, lambda: Reference.parse(text))
        if found is not None:
            yield FoundImage(found, f"service {name}", is_guess)

    def _checked(self, at: _Field, make: Any) -> Any:
        try:
            return make()
        except UsageError as error:
            self._problem(at, at.steps, error)
            return None

    def _problem(self, at: _Field, steps: tuple[Step, ...], problem: UsageError | str) -> None:
        self.mistakes.add(at.path, at.root, steps, problem)

    def _text(self, service: _Service, key: str) -> str:
        """The text of a field, with its variables; empty when there is none, or when it is a mistake."""
        if key not in service:
            return ""
        return next(iter(self._texts(service[key][0])), "")

    def _texts(self, at: _Field) -> list[str]:
        texts = []
        for value in at.value if isinstance(at.value, Seq) else [at.value]:
            if not isinstance(value, str):
                self._problem(at, at.steps, "it must be a text")
            elif (text := self._checked(at, lambda value=value: expand(value, at.variables))) is not None:
                texts.append(text)
        return texts

    def _read(self, path: Path) -> list[Any]:
        """The documents of a file; none of a file that cannot be read, which is a mistake."""
        place = path.resolve()
        if place not in self._documents:
            self._documents[place] = []
            try:
                text = read_text(path)
                self._documents[place] = [each for each in parse_documents(text, path) if each is not None]
            except InvalidFile as error:
                self.mistakes.found.append(error)
            else:
                for tag in _TAG.finditer(text):
                    problem = f"the tag !{tag[1]} is not understood: say in one file what is meant"
                    line = text.count("\n", 0, tag.start(1)) + 1
                    self.mistakes.found.append(InvalidFile(path, problem, line=line))
        return self._documents[place]

    def _document(self, path: Path, root: Any, variables: Mapping[str, str]) -> dict[str, _Service]:
        if not isinstance(root, Map):
            self.mistakes.add(path, root, (), "it is not a mapping, so it is no compose file")
            return {}
        services = root.get("services")
        if services is not None and not isinstance(services, Map):
            self.mistakes.add(path, root, ("services",), "it must be a mapping")
            return {}
        found = self._included(path, root, variables)
        for name in services or ():
            service = self._service(path, root, name, variables)
            if name in found and _values(found[name]) != _values(service):
                self.mistakes.add(path, root, ("services", name), "a file that is included has a service of this name")
            found[name] = service
        return found

    def _service(self, path: Path, root: Map, name: str, variables: Mapping[str, str]) -> _Service:
        node, steps = root["services"][name], ("services", name)
        itself = _Field(node, path, root, steps, variables)
        if not isinstance(node, Map):
            self._problem(itself, steps, "it must be a mapping")
            return {"": [itself], "broken": [itself]}
        own = {key: [_Field(node[key], path, root, (*steps, key), variables)] for key in _KEPT if node.get(key)}
        return _merge(self._extended(itself), {"": [itself], **own})

    def _extended(self, at: _Field) -> _Service:
        """The service that the one at ``at`` extends, which may stand in another file."""
        extends = at.value.get("extends")
        if extends is None:
            return {}
        steps = (*at.steps, "extends")
        broken = {"broken": [at]}
        wanted = Map()
        if isinstance(extends, str):
            wanted["service"] = extends
        elif isinstance(extends, Map):
            wanted = extends
        service = self._texts(_Field(wanted.get("service"), at.path, at.root, steps, at.variables))
        files = (
            [
                at.path.parent / text
                for text in self._texts(_Field(wanted["file"], at.path, at.root, (*steps, "file"), at.variables))
            ]
            if wanted.get("file")
            else [at.path]
        )
        if not service or not files:
            return broken
        path, name = files[0], service[0]
        if (path, name) in self._extending or len(self._extending) > _MAX_CHAIN:
            self._problem(at, steps, "it leads back to itself")
            return broken
        for root in self._read(path):
            if isinstance(root, Map) and isinstance(root.get("services"), Map) and name in root["services"]:
                self._extending.append((path, name))
                try:
                    return self._service(path, root, name, at.variables)
                finally:
                    self._extending.pop()
        if self._documents[path.resolve()]:
            self._problem(at, steps, f"{path.name} has no service {name}")
        return broken

    def _included(self, path: Path, root: Map, variables: Mapping[str, str]) -> dict[str, _Service]:
        """The services of the files that ``include`` names; one that lies elsewhere is refused."""
        found: dict[str, _Service] = {}
        entries = root.get("include")
        for number, entry in enumerate(entries if isinstance(entries, Seq) else [entries] if entries else []):
            steps: tuple[Step, ...] = ("include", number)
            fields = entry if isinstance(entry, Map) else {"path": entry}
            paths = self._texts(_Field(fields.get("path"), path, root, steps, variables))
            if far := [each for each in paths if "://" in each or each.startswith("git@")]:
                self.mistakes.add(path, root, steps, f"{far[0][:160]} lies elsewhere; only files beside it are read")
                continue
            files = [path.parent / each for each in paths]
            if not files or any(each.resolve() in self._loading for each in files):
                self.mistakes.add(path, root, steps, "it leads back to itself" if files else "it names no file")
                continue
            given = fields.get("project_directory")
            texts = self._texts(_Field(given, path, root, steps, variables)) if given else []
            directory = path.parent / texts[0] if texts else files[0].parent
            listed = fields.get("env_file")
            names = self._texts(_Field(listed, path, root, steps, variables)) if listed else []
            inner = self.variables(directory, [path.parent / name for name in names], variables)
            found |= self.load(files, inner)
        return found


def _project_name(directory: Path) -> str:
    """The name of a project that has none: that of its directory, as compose writes it."""
    return re.sub(r"[^a-z0-9_-]", "", directory.resolve().name.lower()).lstrip("_-")


def _values(service: _Service) -> dict[str, list[Any]]:
    return {key: [each.value for each in fields] for key, fields in service.items()}


def _merge(base: _Service, own: _Service) -> _Service:
    """``base`` with the fields of ``own``; lists are put together, as compose does."""
    return {
        key: (base.get(key, []) + own.get(key, []) if key in _LISTS else own.get(key) or base[key])
        for key in {**base, **own}
    }


def read_env(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Read the variables in the file ``.env`` at ``path``; values may refer to ``environment`` and to earlier ones.

    Raises ``InvalidFile``.  Values in single quotes are taken as they are (docs.docker.com, "Interpolation syntax").
    """
    text = read_text(path).replace("\r\n", "\n")
    found: dict[str, str] = {}
    for match in _ASSIGNMENT.finditer(text):
        if match["single"] is not None:
            value = match["single"]
        else:
            raw = match["plain"] if match["double"] is None else match["double"]
            if match["double"] is not None:
                raw = re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), raw)
            try:
                value = expand(raw, {**found, **environment}) if "$" in raw else raw
            except UsageError as error:
                line = text.count("\n", 0, match.start("name")) + 1
                raise InvalidFile(path, f"{match['name']}: {error}", line=line, hint=error.hint) from None
        found[match["name"]] = value
    return found
