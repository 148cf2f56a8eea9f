"""Manifests and indexes, parsed strictly and kept byte for byte; and the walk from an index down to its blobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from syncer.errors import DigestMismatch, InvalidContent
from syncer.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    annotations_from_json,
)

MAX_MANIFEST_SIZE = 4 * 1024 * 1024
"""Bytes.  Distribution-spec obliges a registry to take manifests of this size, and Debian's takes no larger ones."""

MAX_DEPTH = 8
"""The number of indexes that may lie within each other."""

MAX_MANIFESTS = 10_000
"""The number of manifests that one image may have."""

MAX_MANIFEST_BYTES = 32 * 1024 * 1024
"""Bytes of all manifests of one image, which a run keeps in memory; the largest known image has a hundredth of it."""

Takes: TypeAlias = Callable[[Descriptor], bool]
"""Says of a foreign layer whether it comes along with its image."""

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # gzip, zstd
_ATTESTED = "vnd.docker.reference.digest"  # the manifest that an attestation of BuildKit's is about
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


def never(_: Descriptor) -> bool:
    """Leave every foreign layer where its vendor keeps it."""
    return False


class Manifest(Struct, frozen=True):
    """An image or artifact manifest: a config and layers.

    ``artifact_type`` is the config's media type where the document has none (image-spec manifest.md).
    """

    content: bytes
    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    def children(self, takes: Takes = never) -> tuple[Descriptor, ...]:
        """The content that must be in a repository before this manifest: each digest once.

        Foreign layers are left out, but for those that ``takes`` says come along.  Raises ``InvalidContent`` when one
        digest is listed with two sizes.
        """
        return _once((self.config, *(layer for layer in self.layers if layer.is_distributable or takes(layer))))

    def foreign(self) -> tuple[Descriptor, ...]:
        """The layers that stay where their vendor keeps them, unless somebody wants them."""
        return _once(tuple(layer for layer in self.layers if not layer.is_distributable))


class Index(Struct, frozen=True):
    """An index (or Docker manifest list): manifests, usually one for each platform; of BuildKit's caches blobs."""

    content: bytes
    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    def children(self, takes: Takes = never) -> tuple[Descriptor, ...]:  # noqa: ARG002  an index lists no layers
        """The manifests that must be in a repository before this index: each digest once.

        Raises ``InvalidContent`` when one digest is listed with two sizes.
        """
        return _once(self.manifests)

    def foreign(self) -> tuple[Descriptor, ...]:
        """Return no layers, since an index lists none; a ``Manifest`` has a method of this name."""
        return ()


AnyManifest: TypeAlias = Manifest | Index


class Descent:
    """The walk from a manifest down to everything that it needs: depth first, in the order of the documents.

    The caller reads the manifests, and enters those below which the walk is to go on::

        descent = Descent(name)
        descent.enter(root)
        for child, is_manifest in descent:
            if is_manifest and child.digest not in known:
                descent.enter(await source.manifest(name.at(child.digest)))

    A child comes once for each entered manifest that lists it, a foreign layer only if ``takes`` says so.  ``enter``
    raises ``InvalidContent``, which names ``origin``, for more than ``MAX_DEPTH`` indexes within each other, and for
    manifests that are more than ``MAX_MANIFESTS``, or ``MAX_MANIFEST_BYTES`` together.
    """

    __slots__ = ("_bytes_left", "_left", "_open", "_prefix", "_takes")

    def __init__(self, origin: object = None, takes: Takes = never) -> None:
        self._takes = takes
        self._prefix = "" if origin is None else f"{origin}: "
        self._open: list[tuple[Iterator[Descriptor], bool]] = []
        self._left = MAX_MANIFESTS
        self._bytes_left = MAX_MANIFEST_BYTES

    @property
    def depth(self) -> int:
        """The number of manifests above the child that came last."""
        return len(self._open)

    def enter(self, manifest: AnyManifest) -> None:
        """Go on below ``manifest``, which is the root or the child that came last."""
        if self.depth > MAX_DEPTH:
            raise InvalidContent(f"{self._prefix}its indexes are nested more than {MAX_DEPTH} deep")
        if not self._left:
            raise InvalidContent(f"{self._prefix}it has more than {MAX_MANIFESTS} manifests")
        self._left -= 1
        self._bytes_left -= len(manifest.content)
        if self._bytes_left < 0:
            raise InvalidContent(f"{self._prefix}its manifests have more than {MAX_MANIFEST_BYTES} bytes together")
        self._open.append((iter(manifest.children(self._takes)), isinstance(manifest, Index)))

    def __iter__(self) -> Iterator[tuple[Descriptor, bool]]:
        """Yield each child, with True for a manifest (listed by an index) and False for a blob."""
        while self._open:
            children, are_manifests = self._open[-1]
            child = next(children, None)
            if child is None:
                self._open.pop()
            else:
                yield child, are_manifests and child.may_be_manifest


def parse_manifest(content: bytes, media_type: str | None = None, *, expected: Digest | None = None) -> AnyManifest:
    """Parse the manifest or index in ``content``, and keep its bytes as they are.

    ``media_type`` is the one that the server or the parent gives, without parameters.  Raises
    ``DigestMismatch`` when the bytes are not those of ``expected``, and ``InvalidContent`` for Docker's
    schema 1, for a document that is both index and manifest (CVE-2021-41190), for a media type that
    contradicts the document's own, and for anything else that image-spec forbids.  Lists that are missing or null are
    empty, as programs write them and registries take them (opencontainers/image-spec#1025).
    """
    if len(content) > MAX_MANIFEST_SIZE:
        raise InvalidContent(f"a manifest of {len(content)} bytes is larger than {MAX_MANIFEST_SIZE}")
    digest = Digest.of(content, expected.algorithm if expected else "sha256")
    if expected is not None and digest != expected:
        raise DigestMismatch(f"a manifest's content is {digest.short}, not {expected.short} as asked for")
    document = _load(content)
    kind = _media_type(document, media_type)
    subject = document.get("subject")
    about = Descriptor.from_json(subject) if subject is not None else None
    artifact_type = document.get("artifactType")
    if not isinstance(artifact_type, str):
        artifact_type = None
    annotations = annotations_from_json(document.get("annotations"))
    descriptor = Descriptor(kind, digest, len(content))
    if kind in INDEX_TYPES:
        return Index(content, descriptor, _descriptors(document, "manifests"), about, artifact_type, annotations)
    config, layers = Descriptor.from_json(document.get("config")), _descriptors(document, "layers")
    return Manifest(content, descriptor, config, layers, about, artifact_type or config.media_type, annotations)


def reduce_index(
    index: Index, kept: Sequence[Descriptor], is_there: Callable[[Digest], bool] = lambda _: True
) -> Index:
    """``index`` with only the manifests ``kept`` and BuildKit's attestations of them; the same bytes every time.

    An attestation for which ``is_there`` says no is left out.  An index that loses no manifest keeps its bytes and its
    digest.
    """
    digests = {str(child.digest) for child in kept}
    document = load_object(index.content)
    document["manifests"] = [
        entry
        for entry in document["manifests"]
        if entry["digest"] in digests
        or ((entry.get("annotations") or {}).get(_ATTESTED) in digests and is_there(Digest.parse(entry["digest"])))
    ]
    if len(document["manifests"]) == len(index.manifests):
        return index
    smaller = parse_manifest(json.dumps(document).encode(), index.descriptor.media_type)
    assert isinstance(smaller, Index)
    return smaller


def referrer_descriptor(manifest: AnyManifest) -> Descriptor:
    """The entry for ``manifest`` in a list of referrers (distribution-spec, "Listing Referrers")."""
    return replace(manifest.descriptor, artifact_type=manifest.artifact_type, annotations=manifest.annotations)


def load_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises ``InvalidContent``, also for a key given twice, and for any encoding but UTF-8
    without a byte order mark (RFC 8259 §8.1).

    This uses the standard library's parser, since orjson accepts a key given twice: two programs that read one manifest
    differently can be used to smuggle content.
    """
    document = load_json(content)
    if not isinstance(document, dict):
        raise InvalidContent("this is JSON, but not an object")
    return document


def load_json(content: bytes) -> Any:
    """Parse JSON of any kind as strictly as ``load_object`` does."""
    if content.startswith(_COMPRESSED):
        raise InvalidContent("this is compressed data, and not JSON")
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidContent(f"this is not JSON: {error}") from None


def _load(content: bytes) -> dict[str, Any]:
    document = load_object(content)
    if document.get("schemaVersion") == 1 or str(document.get("mediaType", "")).startswith(_SCHEMA_1):
        raise InvalidContent(
            "Docker's schema 1 is not supported: the image must be pushed anew by a current tool",
        )
    if document.get("schemaVersion") != 2:
        raise InvalidContent("a manifest's schemaVersion must be 2")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise InvalidContent("a document that is both index and manifest is refused (CVE-2021-41190)")
    return document


def _media_type(document: dict[str, Any], given: str | None) -> str:
    """The document's own media type, else the given one, else the one that fits its fields."""
    if given is not None and given.startswith(_SCHEMA_1):
        raise InvalidContent("Docker's schema 1 is not supported: the image must be pushed anew by a current tool")
    known = (*MANIFEST_TYPES, *INDEX_TYPES)
    own = document.get("mediaType")
    if own is not None and own not in known:
        raise InvalidContent(f"a manifest of the unknown media type {own!r:.120}")
    if own is None:
        own = given if given in known else (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    elif given in known and given != own:
        raise InvalidContent(f"a manifest is called {given}, and says that it is {own}")
    if any(field in document for field in (("config", "layers") if own in INDEX_TYPES else ("manifests",))):
        raise InvalidContent(f"a manifest says that it is {own}, and has another one's fields")
    return str(own)


def _descriptors(document: dict[str, Any], key: str) -> tuple[Descriptor, ...]:
    entries = document.get(key)
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise InvalidContent(f"a manifest's {key} must be a list, and what came is {json.dumps(entries):.80}")
    return tuple(map(Descriptor.from_json, entries))


def _once(descriptors: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    seen: dict[Digest, Descriptor] = {}
    for descriptor in descriptors:
        known = seen.setdefault(descriptor.digest, descriptor)
        if known.size != descriptor.size:
            raise InvalidContent(
                f"{descriptor.digest.short} is listed with the sizes {known.size} and {descriptor.size}"
            )
    return tuple(seen.values())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidContent("a JSON object has the same key twice")
    return document


__all__ = [
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "MAX_DEPTH",
    "MAX_MANIFESTS",
    "MAX_MANIFEST_BYTES",
    "MAX_MANIFEST_SIZE",
    "AnyManifest",
    "Descent",
    "Index",
    "Manifest",
    "Takes",
    "load_json",
    "load_object",
    "never",
    "parse_manifest",
    "reduce_index",
    "referrer_descriptor",
]
