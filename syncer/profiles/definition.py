"""bundle-definition.yaml: what a bundle is to hold, for people to read and edit, and what it turned out to hold.

It is written before a build (``--metadata-only``), built from (``--metadata-file``), and travels in the bundle.
Digests in it are binding.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from syncer.errors import AlreadyThere, InvalidFile, TargetError
from syncer.oci import Digest, Reference
from syncer.profiles.checked_document import Checked, check, mistake, parsed
from syncer.profiles.packs import ChartRequest
from syncer.profiles.text_file import decode_text, read_text
from syncer.profiles.yaml_document import parse_yaml

FILE_NAME = "bundle-definition.yaml"

_HEADER = """\
# What the bundle holds. This file may be edited: `syncer build --metadata-file` builds what it says, and a digest
# in it is binding. `packs` only tell who wants a thing.
"""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Reference | Digest) else value


AReference = Annotated[Reference, parsed(Reference.parse), BeforeValidator(_as_text), PlainSerializer(str)]
ADigest = Annotated[Digest, parsed(Digest.parse), BeforeValidator(_as_text), PlainSerializer(str)]
Size = Annotated[int, Field(ge=0)]  # bytes


class DefinedPack(Checked):
    """A pack that a profile has."""

    name: str
    version: str = ""


class DefinedProfile(Checked):
    """A profile, as it was when the definition was made."""

    name: str
    version: str = ""
    uid: str = ""
    type: str = ""
    packs: tuple[DefinedPack, ...] = ()


class DefinedImage(Checked):
    """An image and the packs that want it; what it resolved to, once that is known.

    ``size`` counts the bytes of everything that the digest names, ``stored`` is where a push put the image.
    """

    image: AReference
    packs: tuple[str, ...] = ()
    digest: ADigest | None = None
    platforms: tuple[str, ...] = ()
    size: Size | None = None
    stored: AReference | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.digest and self.image.digest and self.digest != self.image.digest:
            raise mistake(f"its digest {self.digest.short} is not the one in the image's name")
        return self

    @property
    def reference(self) -> Reference:
        """What to ask for: the name, bound to the digest if there is one."""
        return replace(self.image, digest=self.digest or self.image.digest)


class DefinedChart(Checked):
    """A chart and the packs that want it; its name and digest as an artifact, once it is resolved."""

    repo: Annotated[str, Field(min_length=1)]
    name: str = ""
    version: str | None = None
    packs: tuple[str, ...] = ()
    artifact: AReference | None = None
    digest: ADigest | None = None
    size: Size | None = None
    stored: AReference | None = None

    @property
    def request(self) -> ChartRequest:
        return ChartRequest(self.repo, self.name, self.version)


class DefinedArchive(Checked):
    """The archive of a pack itself, which a primary registry serves; ``path`` is where it lies on this machine."""

    name: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(min_length=1)]
    path: Annotated[Path, PlainSerializer(str)] | None = None
    digest: ADigest | None = None
    size: Size | None = None
    stored: AReference | None = None


class DefinedFile(Checked):
    """A file that travels along as it is, such as a cluster definition; ``path`` as above."""

    artifact: AReference
    path: Annotated[Path, PlainSerializer(str)] | None = None
    digest: ADigest | None = None
    size: Size | None = None
    stored: AReference | None = None


Entry: TypeAlias = DefinedImage | DefinedChart | DefinedArchive | DefinedFile


class Missing(Checked):
    """Something that a partial bundle lacks, and why."""

    name: str
    reason: str


class Release(Checked):
    """What ``--application-release-name``, ``-version`` and ``-notes`` say."""

    name: str = ""
    version: str = ""
    notes: str = ""


class Definition(Checked):
    """All that a bundle is to hold, in the order of the profiles."""

    apiVersion: Literal["syncer/v1"] = "syncer/v1"  # noqa: N815 - as Kubernetes spells it
    kind: Literal["BundleDefinition"] = "BundleDefinition"
    name: Annotated[str, Field(min_length=1)]
    release: Release | None = None
    profiles: tuple[DefinedProfile, ...] = ()
    images: tuple[DefinedImage, ...] = ()
    charts: tuple[DefinedChart, ...] = ()
    archives: tuple[DefinedArchive, ...] = ()
    files: tuple[DefinedFile, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def entries(self) -> list[Entry]:
        """Everything, in the order in which a bundle holds it."""
        return [*self.images, *self.charts, *self.archives, *self.files]

    def tree(self) -> dict[str, Any]:
        """The document that the file is, of plain values; what has its default is left out."""
        whole = {"apiVersion": self.apiVersion, "kind": self.kind}
        return whole | self.model_dump(mode="json", exclude_defaults=True)

    @model_validator(mode="after")
    def _once(self) -> Self:
        digests: dict[str, Digest | None] = {}
        for entry in self.images:
            name = str(entry.image)
            if digests.setdefault(name, entry.digest) != entry.digest:
                raise mistake(f"{name} is in images twice, with different digests")
        return self


def read_definition(path: Path) -> Definition:
    """The definition in the file at ``path``; raises ``InvalidFile``, which names line and field."""
    return parse_definition(read_text(path), path)


def parse_definition(text: str | bytes, origin: Path | str) -> Definition:
    """As ``read_definition``, for text from a bundle or a registry."""
    tree = parse_yaml(decode_text(text, origin) if isinstance(text, bytes) else text, origin)
    if tree is None:
        raise InvalidFile(origin, "it is empty, and a bundle definition is expected")
    return check(Definition, tree, origin)


def render_definition(definition: Definition) -> str:
    """The file's text; the same definition always gives the same text, and ``parse_definition`` reads it back."""
    body = yaml.dump(definition.tree(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER + body


def write_definition(definition: Definition, path: Path, *, force: bool = False) -> None:
    """Write the file, whole or not at all.

    Raises ``AlreadyThere`` when another text is there, which somebody may have edited, unless ``force`` is set, and
    ``TargetError``.
    """
    text = render_definition(definition)
    try:
        if not force and path.exists() and path.read_bytes() != text.encode():
            raise AlreadyThere(
                f"{path} is there already, and says something else",
                hint="it may have been edited; replace it with --force",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror or error}") from None


class _Dumper(yaml.SafeDumper):
    """Indents lists below their key, as people do, and never uses anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's
        super().increase_indent(flow, False)  # noqa: FBT003 - PyYAML's

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's
        return True


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Texts of several lines as they would be typed; what YAML has odd rules for, such as U+0085, in quotes."""
    odd = not text.replace("\n", "").isprintable()
    style = '"' if odd else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_block)
