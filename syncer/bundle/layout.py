"""The OCI image layout inside a bundle: which names there are, and what ``index.json`` says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from syncer.errors import InvalidContent, InvalidReference
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.descriptor import OCI_INDEX
from syncer.oci.manifest import load_object

OCI_LAYOUT = "oci-layout"
INDEX = "index.json"
DEFINITION = "bundle-definition.yaml"
LAYOUT_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'

REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"

MAX_INDEX_SIZE = 32 * 1024 * 1024
"""Bytes of ``index.json`` or ``bundle-definition.yaml``."""

_MAX_VALUES = 250_000
_MAX_NAME = 512
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_PAD = re.compile(r"\.pad/[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a bundle: the reference it was found under, as text and as value, and its root."""

    reference: Reference
    name: str
    descriptor: Descriptor


def blob_name(digest: Digest) -> str:
    """The member that holds the content ``digest`` names."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def digest_of_name(name: str) -> Digest | None:
    """The digest whose content the member ``name`` holds; None for any other name."""
    found = _BLOB.fullmatch(name)
    try:
        return Digest.parse(f"{found[1]}:{found[2]}") if found else None
    except InvalidContent:
        return None


def is_pad(name: str) -> bool:
    """Tell whether the member ``name`` stands in the place of content that could not be fetched."""
    return _PAD.fullmatch(name) is not None


def write_index(images: Iterable[tuple[Reference, Descriptor]]) -> bytes:
    """``index.json``: each image under its original reference, in the order given."""
    entries = [replace(root, annotations={REF_NAME: str(name)}).to_json() for name, root in images]
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return json.dumps(document, indent=1).encode()


def read_index(content: bytes) -> tuple[Image, ...]:
    """The images that ``index.json`` names by a full reference; raises ``InvalidContent``.

    An entry without a name, or with a tag alone as some tools write it, names no image.  Two spellings of one name are
    one image; when they stand for two, the second one keeps its digest and not the tag.
    """
    try:
        check_values(content)
        images = list(_images(load_object(content)))
    except InvalidContent as error:
        raise InvalidContent(f"index.json is not usable: {error}") from None
    return _distinct(images)


def _distinct(images: Iterable[Image]) -> tuple[Image, ...]:
    """``images`` under references that differ; in older bundles a name of Docker Hub may be a registry of its own."""
    found: dict[Reference, Image] = {}
    for image in images:
        known = found.get(image.reference)
        if known is not None and known.name == image.name:
            raise InvalidContent("index.json gives the same name to two images")
        if known is not None and known.descriptor.digest != image.descriptor.digest:
            image = replace(image, reference=image.reference.at(image.descriptor.digest))  # noqa: PLW2901
        found.setdefault(image.reference, image)
    return tuple(found.values())


def check_values(content: bytes) -> None:
    """Raise ``InvalidContent`` for JSON of so many values that parsing it would fill the memory.

    Two bytes of JSON can become a hundred bytes of Python.
    """
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MAX_VALUES:
        raise InvalidContent(f"its JSON has more than {_MAX_VALUES} values")


def check_layout(content: bytes) -> None:
    """Raise ``InvalidContent`` unless ``oci-layout`` is of the version that this module knows."""
    try:
        version = load_object(content).get("imageLayoutVersion")
    except InvalidContent as error:
        raise InvalidContent(f"oci-layout is not usable: {error}") from None
    if version != "1.0.0":
        raise InvalidContent("oci-layout is of another version than 1.0.0")


def _images(document: dict[str, Any]) -> Iterator[Image]:
    entries = document.get("manifests")
    if document.get("schemaVersion") != 2 or not isinstance(entries, list):
        raise InvalidContent("it is no image index")
    for root in map(Descriptor.from_json, entries):
        name = root.annotations.get(_CONTAINERD_NAME) or root.annotations.get(REF_NAME, "")
        if not set(name) & set("/:@"):
            continue
        if len(name) > _MAX_NAME:
            raise InvalidContent(f"an image's name is longer than {_MAX_NAME} characters")
        try:
            yield Image(Reference.parse(name), name, root)
        except InvalidReference as error:
            raise InvalidContent(str(error)) from None
