"""Bundles of imgpkg's: images whose one layer holds an ImagesLock, ``.imgpkg/images.yml``, of other images.

The rules are those of imgpkg (``pkg/imgpkg/bundle``): a bundle has the label ``dev.carvel.imgpkg.bundle``, and each
image that it lists is looked for in the bundle's own repository first, where a copy puts it, and then under its own
name.  The images land beside the bundle, by digest, so that ``imgpkg pull`` finds them at the target.
"""

from __future__ import annotations

import io
from pathlib import Path

import anyio
import orjson
from msgspec import Struct, field

from syncer.api.supplies import Listing, OpenSupplies
from syncer.content import read_whole
from syncer.errors import Denied, DigestMismatch, InvalidContent, InvalidFile, NotFound
from syncer.formats.archive import read_archive
from syncer.formats.text import decode_text
from syncer.formats.yaml import parse_yaml
from syncer.oci import Descriptor, Digest, Manifest, Reference
from syncer.profiles.imports.draft import Draft
from syncer.profiles.imports.locks import import_imgpkg

_LABEL = "dev.carvel.imgpkg.bundle"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_LOCK = ".imgpkg/images.yml"
_MAX_CONFIG = 4 * 1024 * 1024  # bytes
_MAX_LAYER = 64 * 1024 * 1024  # bytes; a bundle holds configuration
_MAX_IMAGES = 10_000  # in all nested bundles together


async def list_bundle(image: Reference, supplies: OpenSupplies) -> Listing:
    """List ``image`` and, if it is a bundle, all images that it and the bundles in it list.

    Raises ``SyncerError`` when one of them cannot be read, so that nothing is taken for all there is.
    """
    walk = _Walk(image, supplies)
    level = [image]
    while level:
        level = await walk.below(level)
    return Listing((image, *walk.origins), origins=walk.origins)


class _Walk(Struct):
    root: Reference
    supplies: OpenSupplies
    origins: dict[Reference, Reference] = field(default_factory=dict)  # by the name beside the root

    async def below(self, images: list[Reference]) -> list[Reference]:
        """The places of the images that those of ``images`` list which are bundles, without known ones."""
        listed: dict[int, list[Reference]] = {}

        async def read(number: int, image: Reference) -> None:
            listed[number] = await self._listed(image)

        async with anyio.create_task_group() as tasks:
            for number, image in enumerate(images):
                tasks.start_soon(read, number, image)
        found = []
        for number in range(len(images)):
            for place in listed[number]:
                assert place.digest is not None  # a lock names each image so
                name = self.root.at(place.digest)
                if name not in self.origins:
                    self.origins[name] = place
                    found.append(place)
        if len(self.origins) > _MAX_IMAGES:
            raise InvalidContent(f"{self.root}: its bundles list more than {_MAX_IMAGES} images")
        return found

    async def _listed(self, image: Reference) -> list[Reference]:
        """The places of the images that ``image`` lists; none unless it is a bundle."""
        manifest = await self.supplies.manifest(image)
        if not isinstance(manifest, Manifest) or [layer.media_type for layer in manifest.layers] != [_LAYER]:
            return []
        if _LABEL not in _labels(await self._content(image, manifest.config, _MAX_CONFIG)):
            return []
        lock = _images_of(await self._content(image, manifest.layers[0], _MAX_LAYER), str(image))
        places: dict[int, Reference] = {}

        async def locate(number: int, listed: Reference) -> None:
            places[number] = await self._place(listed, image)

        async with anyio.create_task_group() as tasks:
            for number, listed in enumerate(lock):
                tasks.start_soon(locate, number, listed)
        return [places[number] for number in range(len(lock))]

    async def _place(self, listed: Reference, bundle: Reference) -> Reference:
        assert listed.digest is not None
        beside = bundle.at(listed.digest)
        try:
            await self.supplies.resolve(beside)
        except (NotFound, Denied):
            return listed
        return beside

    async def _content(self, image: Reference, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            raise InvalidContent(f"{image}: {descriptor.digest.short} has {descriptor.size} bytes, more than {limit}")
        content = await read_whole(self.supplies.blob(image, descriptor))
        if Digest.of(content, descriptor.digest.algorithm) != descriptor.digest:
            raise DigestMismatch(f"{image}: {descriptor.digest.short} is not the content that its digest names")
        return content


def _labels(config: bytes) -> dict[str, object]:
    """The labels in the config of an image; none in what is not such a config."""
    try:
        document = orjson.loads(config)
        labels = document["config"]["Labels"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return labels if isinstance(labels, dict) else {}


def _images_of(layer: bytes, origin: str) -> list[Reference]:
    """The images that the ImagesLock in the layer of a bundle lists; raises ``InvalidContent``."""
    try:
        found = next(read_archive(io.BytesIO(layer), origin, _LOCK.__eq__), None)
        if found is None:
            raise InvalidContent(f"{origin} is a bundle of imgpkg's without {_LOCK}")
        name = f"{origin}: {_LOCK}"
        draft = Draft(Path(name))
        import_imgpkg(parse_yaml(decode_text(found[1], name), name), draft)
    except InvalidFile as error:
        raise InvalidContent(str(error)) from None
    if draft.refusals:
        raise InvalidContent(str(draft.refusals[0]))
    return [Reference.parse(source["image"]) for source in draft.sources]
