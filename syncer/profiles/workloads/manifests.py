"""Kubernetes manifests: files, and what ``kustomize build`` and ``helm template`` print.

The kinds of Kubernetes that run pods have their images in fields that its API defines (kubernetes.io/docs/reference,
"Workload Resources"): these are read exactly.  The images of all other kinds can only be guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from syncer.errors import InvalidFile, InvalidReference, UsageError
from syncer.formats.yaml import Map, Seq, Step, line_of, spell_path
from syncer.oci import Reference
from syncer.profiles.palette.profile import FoundImage
from syncer.profiles.palette.scan import guess_images

_TEMPLATE = ("spec", "template", "spec")
_PODS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): ("spec",),
    ("", "PodTemplate"): ("template", "spec"),
    ("", "ReplicationController"): _TEMPLATE,
    **{("apps", kind): _TEMPLATE for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")},
    **{("extensions", kind): _TEMPLATE for kind in ("Deployment", "DaemonSet", "ReplicaSet")},
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}
"""The path to the pod of each kind, by API group and kind."""

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_OTHER_TOOLS = ("mirror.openshift.io", "content.hauler.cattle.io", "imgpkg.carvel.dev")
_NOT_KUBERNETES = frozenset({"ClusterProfile", "BundleDefinition"})
_SCHEMAS = "CustomResourceDefinition"
_KUSTOMIZE = "kustomize.config.k8s.io"
_PARENTHESES = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
TEMPLATE_PROBLEM = "it is a template that is still to be filled in"
TEMPLATE_HINT = "give what `helm template` prints"


class Workloads(Struct, frozen=True):
    """The images of some files: those that run, those that may, warnings, and the kinds of the documents."""

    images: tuple[FoundImage, ...] = ()
    guesses: tuple[FoundImage, ...] = ()
    warnings: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    files: frozenset[Path] = frozenset()  # that were read because another one names them

    def __add__(self, other: Workloads) -> Workloads:
        return Workloads(
            self.images + other.images,
            self.guesses + other.guesses,
            self.warnings + other.warnings,
            tuple(dict.fromkeys((*self.kinds, *other.kinds))),
            self.files | other.files,
        )


class Mistakes(Struct):
    """The mistakes of files, which are told together."""

    found: list[InvalidFile] = field(default_factory=list)

    def add(self, path: Path, root: Any, steps: tuple[Step, ...], problem: UsageError | str) -> None:
        """Note what is wrong with the field at ``steps`` of the document ``root`` of the file at ``path``."""
        hint = problem.hint if isinstance(problem, UsageError) else None
        words = f"{spell_path(steps)}: {problem}" if steps else str(problem)
        self.found.append(InvalidFile(path, words, line=line_of(root, steps), hint=hint))

    def tell(self) -> None:
        """Raise an ``InvalidFile`` of all mistakes, if there are any."""
        if self.found:
            raise InvalidFile.of(self.found)


def is_manifests(documents: Sequence[Any]) -> bool:
    """Tell whether ``documents`` hold an object of Kubernetes: something with apiVersion and kind."""
    return any(_group_and_kind(document) is not None for document in documents)


def read_manifests(documents: Sequence[Any], path: Path, environment: Mapping[str, str], found: Mistakes) -> Workloads:
    """Read the images of the objects in ``documents``, the content of the file at ``path``, in their order.

    ``$(X)`` and ``${X:-default}`` in an image are taken from ``environment``, as tools that fill in manifests do.
    Mistakes are added to ``found``: an image without a value, one that is no reference, a variable that is not set.
    """
    reader = _Reader(path, environment, found)
    for document in documents:
        for each, steps in _objects(document, ()):
            reader.read(document, each, steps)
    return Workloads(
        tuple(reader.images), tuple(reader.guesses), tuple(dict.fromkeys(reader.warnings)), tuple(reader.kinds)
    )


class _Reader(Struct):
    path: Path
    environment: Mapping[str, str]
    mistakes: Mistakes
    images: list[FoundImage] = field(default_factory=list)
    guesses: list[FoundImage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kinds: dict[str, None] = field(default_factory=dict)

    def read(self, root: Any, node: Map, steps: tuple[Step, ...]) -> None:
        """Read one object, which stands at ``steps`` of the document ``root``."""
        group, kind = _group_and_kind(node) or ("", "")
        self.kinds[kind] = None
        if group.endswith(_OTHER_TOOLS):
            problem = UsageError(
                f"{kind} is a file of another tool", hint="turn it into a sync file with syncer import"
            )
            self.mistakes.add(self.path, root, (*steps, "kind"), problem)
        elif group == _KUSTOMIZE:
            self.warnings.append(
                f"{self.path}: a {kind} is not applied, so the images are those of the manifests themselves; "
                f"give what `kustomize build` prints"
            )
        elif place := _PODS.get((group, kind)):
            self._pod(root, node, steps, place, f"{kind} {_name(node)}".rstrip())
        elif kind != _SCHEMAS:
            where = f"{kind} {_name(node)}".rstrip() + f" in {self.path.name}"
            self.guesses += guess_images(node, where)

    def _pod(self, root: Any, node: Map, steps: tuple[Step, ...], place: tuple[str, ...], where: str) -> None:
        pod, parent = node, node
        for step in place:
            inner = pod.get(step)
            steps = (*steps, step)
            if inner is None:
                return  # a patch of kustomize, or a template that an operator fills in
            if not isinstance(inner, Map):
                self.mistakes.add(self.path, root, steps, "it must be a mapping")
                return
            pod, parent = inner, pod
        is_injected = _is_injected(parent)
        for key in _CONTAINERS:
            for container, at in self._entries(root, pod, steps, key):
                if "image" not in container:
                    self.warnings.append(f"{self.path}: {spell_path(at)} ({where}) has no image, so none is taken")
                elif is_injected and container["image"] == "auto":
                    self.warnings.append(f"{self.path}: {where}: Istio fills in the image of {spell_path(at)}")
                else:
                    self._image(root, container["image"], (*at, "image"), where)
        for volume, at in self._entries(root, pod, steps, "volumes"):
            source = volume.get("image")
            if isinstance(source, Map) and "reference" in source:
                self._image(root, source["reference"], (*at, "image", "reference"), where)

    def _entries(
        self, root: Any, pod: Map, steps: tuple[Step, ...], key: str
    ) -> Iterator[tuple[Map, tuple[Step, ...]]]:
        """The mappings in the list ``key`` of ``pod``, and their places."""
        entries = pod.get(key)
        if entries is not None and not isinstance(entries, Seq):
            self.mistakes.add(self.path, root, (*steps, key), "it must be a list")
            return
        for number, entry in enumerate(entries or ()):
            if isinstance(entry, Map):
                yield entry, (*steps, key, number)
            else:
                self.mistakes.add(self.path, root, (*steps, key, number), "it must be a mapping")

    def _image(self, root: Any, text: Any, steps: tuple[Step, ...], where: str) -> None:
        if not isinstance(text, str):
            self.mistakes.add(self.path, root, steps, "it must be the name of an image")
            return
        if "{{" in text:
            self.mistakes.add(self.path, root, steps, UsageError(TEMPLATE_PROBLEM, hint=TEMPLATE_HINT))
            return
        try:
            name = expand(_PARENTHESES.sub(r"${\1}", text), self.environment) if "$" in text else text
            self.images.append(FoundImage(Reference.parse(name.strip()), where))
        except (UsageError, InvalidReference) as error:
            self.mistakes.add(self.path, root, steps, error)


def _objects(node: Any, steps: tuple[Step, ...]) -> Iterator[tuple[Map, tuple[Step, ...]]]:
    """Yield the objects in a document: itself, or what a List in it holds."""
    known = _group_and_kind(node)
    if known is None:
        return
    items = node.get("items")
    if known[1].endswith("List") and isinstance(items, Seq):
        for number, item in enumerate(items):
            yield from _objects(item, (*steps, "items", number))
    else:
        yield node, steps


def _group_and_kind(document: Any) -> tuple[str, str] | None:
    """The API group and the kind of an object; None for what is no object of Kubernetes."""
    if not isinstance(document, Map):
        return None
    version, kind = document.get("apiVersion"), document.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or not version or kind in _NOT_KUBERNETES:
        return None
    return version.rpartition("/")[0], kind


def _name(node: Map) -> str:
    metadata = node.get("metadata")
    name = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, Map) else None
    return name if isinstance(name, str) else ""


def _is_injected(template: Any) -> bool:
    """Tell whether Istio completes the pod when it is made, and with it the image ``auto``."""
    metadata = template.get("metadata") if isinstance(template, Map) else None
    annotations = metadata.get("annotations") if isinstance(metadata, Map) else None
    return isinstance(annotations, Map) and "inject.istio.io/templates" in annotations


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Replace the variables in ``text`` by the rules of compose (compose-spec, "Interpolation").

    These are ``$X``, ``${X}``, ``${X:-default}``, ``${X-default}``, ``${X:?message}``, ``${X:+other}`` and so on, and
    ``$$`` is a dollar.  Raises ``UsageError``, which names a variable that is not set and has no default: compose puts
    nothing in its place, and the name of an image would be another one.
    """
    parts: list[str] = []
    place = 0
    while (dollar := text.find("$", place)) >= 0:
        parts.append(text[place:dollar])
        if text.startswith("$$", dollar):
            parts.append("$")
            place = dollar + 2
        elif text.startswith("${", dollar):
            end = _closing(text, dollar + 2)
            parts.append(_braced(text[dollar + 2 : end], environment))
            place = end + 1
        elif name := _NAME.match(text, dollar + 1):
            parts.append(_value(name[0], environment))
            place = name.end()
        else:
            raise UsageError(f"{text[:160]!r} has a $ that begins no variable", hint="$$ stands for a dollar")
    return "".join([*parts, text[place:]])


def _closing(text: str, start: int) -> int:
    """The place of the brace that closes the one before ``start``; defaults may hold variables themselves."""
    depth = 1
    for place in range(start, len(text)):
        if text.startswith("${", place):
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place
    raise UsageError(f"{text[:160]!r} has a ${{ that nothing closes")


def _braced(inner: str, environment: Mapping[str, str]) -> str:
    name = _NAME.match(inner)
    rest = inner[name.end() :] if name else inner
    operator = _OPERATOR.match(rest)
    if name is None or (rest and operator is None):
        raise UsageError(f"${{{inner[:160]}}} is not a variable as compose writes them")
    if operator is None:
        return _value(name[0], environment)
    other = rest[operator.end() :]
    is_given = bool(environment.get(name[0])) if operator[0][0] == ":" else name[0] in environment
    match operator[0][-1]:
        case "+":
            return expand(other, environment) if is_given else ""
        case "-":
            return environment[name[0]] if is_given else expand(other, environment)
        case _:
            if not is_given:
                raise UsageError(f"the variable {name[0]} is required: {expand(other, environment) or 'it is not set'}")
            return environment[name[0]]


def _value(name: str, environment: Mapping[str, str]) -> str:
    if name not in environment:
        raise UsageError(f"the variable {name} is not set", hint=f"set it in the environment: export {name}=…")
    return environment[name]
