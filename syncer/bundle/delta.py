"""The content that a delta leaves out, since its target has it: the member ``assumed.json`` (docs/delta.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import orjson
from msgspec import Struct, structs

from syncer.errors import InvalidContent, InvalidReference
from syncer.oci import Descriptor, Digest, Reference
from syncer.oci.manifest import load_object

_KIND = "syncer/assumed@1"


class Witness(Struct, frozen=True, order=True):
    """A list that says what a target has: a ``have.json``, an older bundle, or an older definition."""

    digest: str  # of the file; of a bundle, of its index.json
    date: str = ""  # at which the list was made, as it says itself
    registry: str = ""  # with its base; empty for a bundle
    mapping: str = ""  # the fingerprint of the rules by which names landed there; empty where it is not known

    def to_json(self) -> dict[str, str]:
        return structs.asdict(self)


class Assumption(Struct, frozen=True):
    """The blobs that a target is said to have, and who says so.

    ``places`` has the repositories of each blob at the target, ``names`` the repositories that images have in an older
    bundle: where these land is for the push to say.
    """

    places: Mapping[Digest, tuple[str, ...]]
    names: Mapping[Digest, tuple[str, ...]]
    witnesses: tuple[Witness, ...]
    lacking: frozenset[Digest] = frozenset()  # what the target was found to lack after all
    all_but_lacking: bool = False  # whatever else is wanted is there

    def covers(self, digest: Digest) -> bool:
        """Tell whether the target is said to have the blob."""
        if digest in self.lacking:
            return False
        return self.all_but_lacking or digest in self.places or digest in self.names


class AssumedBlob(Struct, frozen=True):
    """A blob that a delta lacks."""

    digest: Digest
    size: int  # bytes
    repositories: tuple[str, ...] = ()  # at the registry whose list says that it is there
    names: tuple[str, ...] = ()  # repositories by the original names of images

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor without the media type, which the manifests know."""
        return Descriptor("application/octet-stream", self.digest, self.size)


class Assumed(Struct, frozen=True):
    """All that a delta lacks, in the order in which the whole bundle has it."""

    blobs: dict[Digest, AssumedBlob]
    witnesses: tuple[Witness, ...] = ()

    @classmethod
    def of(cls, blobs: Iterable[Descriptor], assumption: Assumption) -> Self:
        """Note that ``blobs`` are left out."""
        return cls(
            {
                blob.digest: AssumedBlob(
                    blob.digest,
                    blob.size,
                    assumption.places.get(blob.digest, ()),
                    assumption.names.get(blob.digest, ()),
                )
                for blob in blobs
            },
            assumption.witnesses,
        )

    @property
    def size(self) -> int:
        """Bytes of all that is left out."""
        return sum(blob.size for blob in self.blobs.values())

    def render(self) -> bytes:
        """The content of ``assumed.json``; the same value always gives the same bytes."""
        document = {
            "kind": _KIND,
            "lists": [witness.to_json() for witness in self.witnesses],
            "blobs": [
                {
                    "digest": str(blob.digest),
                    "size": blob.size,
                    "repositories": list(blob.repositories),
                    "names": list(blob.names),
                }
                for blob in self.blobs.values()
            ],
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2)

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read what ``render`` wrote; raises ``InvalidContent``."""
        document = load_object(content)
        if document.get("kind") != _KIND:
            raise InvalidContent(f"assumed.json is not usable: its kind is not {_KIND}")
        try:
            found = [
                AssumedBlob(
                    Digest.parse(each["digest"]),
                    _size(each["size"]),
                    _repositories(each.get("repositories", []), "registry.invalid/"),
                    _repositories(each.get("names", [])),
                )
                for each in document["blobs"]
            ]
            lists = [
                Witness(*(str(each.get(name, "")) for name in ("digest", "date", "registry", "mapping")))
                for each in document["lists"]
            ]
        except (KeyError, TypeError, AttributeError, InvalidContent, InvalidReference):
            raise InvalidContent("assumed.json is not usable: it is not of the form that syncer writes") from None
        return cls({blob.digest: blob for blob in found}, tuple(lists))


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _repositories(value: Any, host: str = "") -> tuple[str, ...]:
    """Names that become a part of addresses: each must be a repository and nothing besides."""
    for name in value:
        if not isinstance(name, str) or Reference.parse(host + name).name != host + name:
            raise TypeError
    return tuple(value)
