"""Artifacts that are made here: charts, files, packs and definitions as manifests, the same for the same content."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson

from syncer.errors import InvalidContent
from syncer.naming import PACKS, PACKS_HOST
from syncer.oci import Descriptor, Digest, Manifest, Reference, parse_manifest
from syncer.oci.descriptor import OCI_MANIFEST

CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
FILE = "application/vnd.syncer.file.v1"
"""Artifact type of a file that a profile names by its URL."""

DEFINITION = "application/vnd.syncer.bundle-definition.v1+yaml"
"""Artifact type, and type of the one layer, of a bundle's definition."""


TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
EMPTY_CONFIG = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
"""The config of an artifact that has none (image-spec, "Guidance for an empty descriptor")."""

_NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})
_NOT_IN_COMPONENT = re.compile(r"[^a-z0-9._-]+")
_SEPARATORS = re.compile(r"[._-]*[.][._-]*|_{3,}|[_-]*-[_-]*_[_-]*|_+-[_-]*")


def artifact_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    artifact_type: str | None = None,
    annotations: Mapping[str, str] = _NO_ANNOTATIONS,
) -> Manifest:
    """A manifest without any time in it, its keys in the order of the specification, its annotations sorted."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    if artifact_type:
        document["artifactType"] = artifact_type
    document["config"] = config.to_json()
    document["layers"] = [layer.to_json() for layer in layers]
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    manifest = parse_manifest(orjson.dumps(document), OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    return manifest


def definition_artifact(content: bytes) -> tuple[Manifest, Mapping[Digest, bytes]]:
    """A definition (the bytes of its YAML) as an artifact: the manifest, and its config and layer by digest."""
    annotations = {TITLE: "bundle-definition.yaml"}
    layer = Descriptor(DEFINITION, Digest.of(content), len(content), annotations=annotations)
    manifest = artifact_manifest(EMPTY, [layer], artifact_type=DEFINITION)
    return manifest, {EMPTY.digest: EMPTY_CONFIG, layer.digest: content}


def definition_layer(manifest: object) -> Descriptor:
    """Where the YAML is in a manifest that should be a definition's; raises ``InvalidContent``."""
    layers = manifest.layers if isinstance(manifest, Manifest) else ()
    found = [layer for layer in layers if layer.media_type == DEFINITION]
    if len(found) != 1:
        raise InvalidContent("this is no bundle definition: it has no layer of that type")
    return found[0]


def repository_of(*parts: str) -> str:
    """``parts`` of a URL or a name as one repository name: lower case, and other characters as dashes."""
    components = [component for part in parts for component in part.split("/")]
    return "/".join(filter(None, map(_component, components)))


def tag_of(version: str) -> str:
    """``version`` as a tag; build metadata follows an underscore, as Helm writes it (``1.0.0_build.5``)."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", version.replace("+", "_")).lstrip(".-")[:128] or "latest"


def pack_reference(name: str, version: str) -> Reference:
    """What the pack is called in a bundle."""
    return Reference.parse(f"{PACKS_HOST}/{PACKS}/archive/{repository_of(name)}:{tag_of(version)}")


def _component(text: str) -> str:
    """``text`` as a component by distribution-spec's grammar: one dot, one or two underscores, or dashes between."""
    plain = _NOT_IN_COMPONENT.sub("-", text.lower())
    return _SEPARATORS.sub(_one_separator, plain).strip("._-")


def _one_separator(match: re.Match[str]) -> str:
    return "." if "." in match[0] else "-"
