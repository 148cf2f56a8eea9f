"""Making artifacts of charts, files, packs and definitions: the same content always gives the same manifest."""

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
"""The artifact type of a file."""

DEFINITION = "application/vnd.syncer.bundle-definition.v1+yaml"
"""The artifact type of a bundle's definition, and the media type of its one layer."""


TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
EMPTY_CONFIG = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(EMPTY_CONFIG), len(EMPTY_CONFIG))
"""The config of an artifact without a config (image-spec, "Guidance for an empty descriptor")."""

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
    """Make a manifest without times, with its keys in the order of image-spec and its annotations sorted."""
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
    """Make an artifact of a definition, the bytes of its YAML; returns the manifest, and its blobs by digest."""
    annotations = {TITLE: "bundle-definition.yaml"}
    layer = Descriptor(DEFINITION, Digest.of(content), len(content), annotations=annotations)
    manifest = artifact_manifest(EMPTY, [layer], artifact_type=DEFINITION)
    return manifest, {EMPTY.digest: EMPTY_CONFIG, layer.digest: content}


def definition_layer(manifest: object) -> Descriptor:
    """The layer with the YAML of a definition; raises ``InvalidContent`` when ``manifest`` is not a definition's."""
    layers = manifest.layers if isinstance(manifest, Manifest) else ()
    found = [layer for layer in layers if layer.media_type == DEFINITION]
    if len(found) != 1:
        raise InvalidContent("this is not a bundle definition: it has no layer of that type")
    return found[0]


def repository_of(*parts: str) -> str:
    """Join ``parts`` of a URL or a name into one repository name: lower case, with dashes for other characters."""
    components = [component for part in parts for component in part.split("/")]
    return "/".join(filter(None, map(_component, components)))


def tag_of(version: str) -> str:
    """The tag for ``version``; build metadata follows an underscore, as in Helm (``1.0.0_build.5``)."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", version.replace("+", "_")).lstrip(".-")[:128] or "latest"


def pack_reference(name: str, version: str) -> Reference:
    """The name of a pack in a bundle."""
    return Reference.parse(f"{PACKS_HOST}/{PACKS}/archive/{repository_of(name)}:{tag_of(version)}")


def _component(text: str) -> str:
    """Turn ``text`` into one component of a repository name (distribution-spec, "Pulling manifests")."""
    plain = _NOT_IN_COMPONENT.sub("-", text.lower())
    return _SEPARATORS.sub(_one_separator, plain).strip("._-")


def _one_separator(match: re.Match[str]) -> str:
    return "." if "." in match[0] else "-"
