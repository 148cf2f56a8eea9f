"""bundle-definition.yaml: what a bundle is to hold, for people to read and edit, and what it turned out to hold.

It is written before a build (``--metadata-only``), built from (``--metadata-file``), and travels in the bundle.
Digests in it are binding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from syncer.errors import InvalidFile
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
    missing: tuple[Missing, ...] = ()

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
    tree = definition.model_dump(mode="json", exclude_defaults=True)
    tree = {"apiVersion": definition.apiVersion, "kind": definition.kind} | tree
    body = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER + body


@dataclass(frozen=True, slots=True)
class Found:
    """What something resolved to; ``size`` is in bytes, ``artifact`` a chart's name as an artifact."""

    digest: Digest
    size: int | None = None
    platforms: tuple[str, ...] = ()
    artifact: Reference | None = None


def with_found(
    definition: Definition,
    *,
    images: Mapping[Reference, Found],
    charts: Mapping[ChartRequest, Found] = MappingProxyType({}),
    missing: Sequence[Missing] = (),
) -> Definition:
    """``definition`` with what was found for its images (by ``DefinedImage.image``) and charts, and what was not.

    What is found for nothing in the definition is passed over; paths of this machine are left out.
    """
    return definition.model_copy(
        update={
            "images": tuple(_image_with(image, images.get(image.image)) for image in definition.images),
            "charts": tuple(_chart_with(chart, charts.get(chart.request)) for chart in definition.charts),
            "archives": tuple(archive.model_copy(update={"path": None}) for archive in definition.archives),
            "missing": tuple(missing),
        }
    )


def _image_with(image: DefinedImage, found: Found | None) -> DefinedImage:
    if found is None:
        return image
    return image.model_copy(update={"digest": found.digest, "platforms": found.platforms, "size": found.size})


def _chart_with(chart: DefinedChart, found: Found | None) -> DefinedChart:
    if found is None:
        return chart
    artifact = found.artifact and found.artifact.tagged(found.artifact.tag or "latest")
    return chart.model_copy(update={"artifact": artifact, "digest": found.digest, "size": found.size})


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
