"""The platform that an image runs on."""

from __future__ import annotations

from typing import Any, Self

from msgspec import Struct

from syncer.errors import InvalidContent, InvalidPlatform

_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7"}


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
        """Parse ``os/architecture[/variant]``, or an architecture alone for Linux; raises ``InvalidPlatform``."""
        parts = text.split("/")
        if not all(part.replace("-", "").replace("_", "").isalnum() for part in parts) or len(parts) > 3:
            raise InvalidPlatform(f"{text!r} is not a platform", hint="write it like linux/amd64 or arm64")
        if len(parts) == 1:
            return cls("linux", parts[0])
        return cls(*parts)

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
