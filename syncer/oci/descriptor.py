"""Digests, the names of content; descriptors: a digest with the size and the media type of what it names; platforms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct, field

from syncer.errors import InvalidContent, InvalidPlatform

if TYPE_CHECKING:
    from hashlib import _Hash


_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}


_ARCHITECTURES = (
    *("amd64", "arm64", "arm", "386", "ppc64le", "s390x", "riscv64", "loong64"),
    *("mips", "mips64", "mips64le", "mipsle", "ppc64", "sparc64", "wasm"),
)
_KERNEL_NAMES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armv7l": "linux/arm/v7",
}  # `uname -m`
_SYSTEMS = frozenset({"darwin", "freebsd", "illumos", "linux", "netbsd", "openbsd", "solaris", "wasip1", "windows"})


class Platform(Struct, frozen=True, order=True):
    """An operating system and an architecture that an image runs on, such as ``linux/arm64``.

    >>> str(Platform.parse("amd64"))
    'linux/amd64'
    """

    os: str
    architecture: str
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture[/variant]``, or an architecture alone for Linux; raises ``InvalidPlatform``.

        Alone it is one of Go's, whose words the image-spec recommends (config.md); beside its system it may be any.
        """
        parts = text.split("/")
        if not all(part.replace("-", "").replace("_", "").isalnum() for part in parts) or len(parts) > 3:
            raise InvalidPlatform(f"{text!r} is not a platform", hint="write it like linux/amd64 or arm64")
        if len(parts) == 1 and text not in _ARCHITECTURES:
            hint = f"known: {', '.join(_ARCHITECTURES)}; any other is written with its system, linux/ARCHITECTURE"
            if text in _SYSTEMS:
                hint = f"it is a system: write it with its architecture, like {text}/amd64"
            elif text in _KERNEL_NAMES:
                hint = f"images call it {_KERNEL_NAMES[text]}"
            raise InvalidPlatform(f"{text!r} is not an architecture", hint=hint)
        system, architecture, *variant = ["linux", text] if len(parts) == 1 else parts
        if system.isdigit() or system in _ARCHITECTURES or (architecture.isdigit() and architecture != "386"):
            raise InvalidPlatform(
                f"{text!r} is not a platform", hint="the system comes first, then the architecture, like linux/amd64"
            )
        return cls(system, architecture, *variant)

    @classmethod
    def of(cls, platform: str | Self | None) -> Self | None:
        """Take a platform that is a text or a value already, or none; raises ``InvalidPlatform``."""
        return cls.parse(platform) if isinstance(platform, str) else platform

    @classmethod
    def from_json(cls, document: Any) -> Self | None:
        """Parse the ``platform`` of a descriptor; None when it names no operating system or no architecture.

        Raises ``InvalidContent`` for anything that is not an object.
        """
        if document is None:
            return None
        if not isinstance(document, dict):
            raise InvalidContent("a descriptor's platform must be an object")
        os, architecture, variant = (document.get(key) for key in ("os", "architecture", "variant"))
        if not isinstance(os, str) or not isinstance(architecture, str) or "unknown" in (os, architecture):
            return None  # BuildKit marks attestations as unknown/unknown
        return cls(os, architecture, variant if isinstance(variant, str) and variant else None)

    def satisfies(self, wanted: Platform) -> bool:
        """Tell whether an image for this platform fits the platform ``wanted``.

        A missing variant means the architecture's usual one (arm64 is v8, arm is v7).
        """
        return self._with_variant() == wanted._with_variant()

    def _with_variant(self) -> tuple[str, str, str | None]:
        return self.os, self.architecture, self.variant or _DEFAULT_VARIANT.get(self.architecture)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}  # less than half of what hashlib.new takes
_HEX = frozenset("0123456789abcdef")


class Digest(Struct, frozen=True, order=True):
    """The name of some content, such as ``sha256:2cf24d…``.

    The algorithm is sha256 or sha512, in lower case and of exactly the right length (image-spec descriptor.md); a
    laxer check would allow CVE-2024-3727.

    >>> Digest.of(b"hello").short
    'sha256:2cf24dba5fb0'
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``algorithm:hex``; raises ``InvalidContent``."""
        algorithm, colon, hexadecimal = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if not colon or length is None:
            raise InvalidContent(f"{text[:160]!r} is not a digest: it must start with sha256: or sha512:")
        if len(hexadecimal) != length:
            raise InvalidContent(f"{text[:160]!r} is not a digest: {algorithm} has {length} hexadecimal digits")
        if not _HEX.issuperset(hexadecimal):
            raise InvalidContent(f"{text[:160]!r} is not a digest: its digits must be 0-9 and a-f")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, content: bytes | memoryview, algorithm: str = "sha256") -> Self:
        """The digest of ``content``."""
        return cls(algorithm, _HASHES[algorithm](content).hexdigest())

    def hasher(self) -> _Hash:
        """An empty hash of this digest's algorithm."""
        return _HASHES[self.algorithm]()

    def matches(self, hasher: _Hash) -> bool:
        """Tell whether the bytes that went into ``hasher`` are the content that this digest names."""
        return hasher.name == self.algorithm and hasher.hexdigest() == self.hex

    @property
    def short(self) -> str:
        return f"{self.algorithm}:{self.hex[:12]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)

_NO_ANNOTATIONS: Mapping[str, str] = {}
_MAX_SIZE = 2**63 - 1


class Descriptor(Struct, frozen=True):
    """The name, size in bytes and media type of some content (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: _NO_ANNOTATIONS)
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()  # where a vendor keeps a foreign layer

    def __hash__(self) -> int:  # annotations have none
        return hash((self.media_type, self.digest, self.size))

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """Parse a descriptor; raises ``InvalidContent`` for anything that image-spec forbids."""
        if not isinstance(document, dict):
            raise InvalidContent("a descriptor must be an object")
        media_type, digest, size = (document.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not media_type:
            raise InvalidContent("a descriptor lacks its mediaType")
        if not isinstance(digest, str):
            raise InvalidContent("a descriptor lacks its digest")
        if type(size) is not int or not 0 <= size <= _MAX_SIZE:  # bool is an int, and true is no size
            raise InvalidContent(f"the size of {digest[:160]} must be a whole number of bytes, not {size!r:.40}")
        artifact_type, urls = document.get("artifactType"), document.get("urls")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            Platform.from_json(document.get("platform")),
            annotations_from_json(document.get("annotations")),
            artifact_type if isinstance(artifact_type, str) else None,
            tuple(url for url in urls if isinstance(url, str)) if isinstance(urls, list) else (),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of image-spec, with the keys in its order."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform:
            parts = {"os": self.platform.os, "architecture": self.platform.architecture}
            document["platform"] = parts | ({"variant": self.platform.variant} if self.platform.variant else {})
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        """True for content with children: an image manifest or an index."""
        return self.media_type in MANIFEST_TYPES or self.is_index

    @property
    def may_be_manifest(self) -> bool:
        """Tell whether what an index lists is a manifest, if perhaps one of a kind that is not known here.

        BuildKit lists the layers and the config of its cache in an index, and those are blobs (moby/buildkit,
        docs/cache.md).
        """
        return self.is_manifest or ".manifest." in self.media_type

    @property
    def is_distributable(self) -> bool:
        """False for a foreign layer, which stays at its vendor (image-spec layer.md, non-distributable)."""
        return "nondistributable" not in self.media_type and ".foreign." not in self.media_type

    def __str__(self) -> str:
        return f"{self.digest.short} ({self.size} bytes)"


def annotations_from_json(document: Any) -> Mapping[str, str]:
    """Parse annotations, which map strings to strings; raises ``InvalidContent``."""
    if document is None:
        return _NO_ANNOTATIONS
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise InvalidContent("annotations must map strings to strings")
    return document
