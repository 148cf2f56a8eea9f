"""The OCI image layout inside a bundle: which names there are, and what ``index.json`` says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import orjson
from msgspec import Struct, structs
from msgspec.structs import replace
from yarl import URL

from syncer.errors import InvalidContent, InvalidReference, UsageError
from syncer.oci import Descriptor, Digest, Index, Reference
from syncer.oci.descriptor import OCI_INDEX
from syncer.oci.manifest import AnyManifest, load_object
from syncer.oci.reference import fallback_tag
from syncer.transport.guard import without_secrets

OCI_LAYOUT = "oci-layout"
INDEX = "index.json"
DEFINITION = "bundle-definition.yaml"
ASSUMED = "assumed.json"
LAYOUT_CONTENT = b'{"imageLayoutVersion":"1.0.0"}'
DEFAULT_OUTPUT = Path("output/content-bundle")  # the directory of bundles that are built, as Palette's CLI has it
UNFINISHED = ".partial"  # after the name of a bundle whose build has not ended

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

MAX_INDEX_SIZE = 32 * 1024 * 1024
"""Bytes of ``index.json`` or ``bundle-definition.yaml``."""

_DIGESTS_HEAD = "# syncer: sha256 of the members that no digest names\n"
_MAX_DIGESTS = 4096  # bytes of the list of digests
_MAX_VALUES = 250_000
_MAX_NAME = 512
_SHOWN = 8
_HAULER_KIND = re.compile(r"dev\.(?:hauler|cosignproject\.cosign)/([A-Za-z]+(?:/[0-9a-f]+)?)")
_HAULER_TAGS = {"sigs": ".sig", "atts": ".att", "sboms": ".sbom"}
_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)")
_PAD = re.compile(r"\.pad/[0-9]{1,9}")


class Image(Struct, frozen=True):
    """An image of a bundle: the reference it was found under, as text and as value, and its root."""

    reference: Reference
    name: str
    descriptor: Descriptor


class Nameless(Struct, frozen=True):
    """An entry of ``index.json`` that no full reference names: it has a bare tag, or nothing at all."""

    tag: str
    descriptor: Descriptor

    def __str__(self) -> str:
        return f"{self.tag or 'one without any name'} ({self.descriptor.digest.short})"


class BundleUrl(Struct, frozen=True):
    """The address of a bundle on a web server.  As text it is without its query, which may be a signature.

    >>> str(BundleUrl.parse("https://files.example.com/edge.tar.zst?signature=secret"))
    'https://files.example.com/edge.tar.zst?…'
    """

    url: URL

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``http://…`` or ``https://…``, whose query stays byte for byte; raises ``UsageError``."""
        if "@" in text.partition("?")[0]:  # what stands before it may be a password, however it is written
            raise UsageError(
                "the address of a bundle is given with a login in it, which others can read",
                hint="syncer registry-login HOST keeps the login; an @ in the name of a file is written %40",
            )
        try:
            url = URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)
            is_whole = bool(url.host and url.port and url.name)
        except ValueError:
            url, is_whole = URL(), False
        if not is_whole:
            raise UsageError(
                "what is given is no address of a file", hint="write it like https://HOST/PATH/NAME.tar.zst"
            )
        return cls(url)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return unquote(self.url.raw_name)

    @property
    def plain_http(self) -> bool:
        return self.url.scheme == "http"

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __repr__(self) -> str:
        return f"BundleUrl({str(self)!r})"


def bundle_place(given: str | Path | BundleUrl) -> Path | BundleUrl:
    """The place of a bundle that is read: a path, or an ``http://`` or ``https://`` address; raises ``UsageError``."""
    if isinstance(given, str):
        is_url = given.lower().startswith(("http://", "https://"))
        return BundleUrl.parse(given) if is_url else Path(given)
    return given


class GivenName(Struct, frozen=True):
    """A name for the images of an archive that have no full one; without a tag each keeps its own.

    >>> str(GivenName.parse("busybox:1.37").reference)
    'docker.io/library/busybox:1.37'
    """

    reference: Reference

    @classmethod
    def parse(cls, text: str) -> Self:
        """``NAME:TAG`` or ``NAME``, as ``--as`` takes it; raises ``UsageError``."""
        reference = Reference.parse(text)
        if reference.digest is not None:
            raise UsageError(f"{text!r} has a digest, which only the content can have", hint="write NAME:TAG or NAME")
        return cls(reference if ":" in text.rpartition("/")[2] else replace(reference, tag=None))

    def name(self, nameless: Sequence[Nameless]) -> list[Image]:
        """Name them all; raises ``UsageError`` where that cannot be."""
        if not nameless:
            raise UsageError(
                "--as names images that have no full name, and every image of this file has one",
                hint="--map changes where images land",
            )
        if self.reference.tag is not None and len(nameless) > 1:
            raise UsageError(
                f"--as {self.reference} names one image, and the file holds {shown(nameless)}",
                hint=f"--as {self.reference.name} keeps the tag that each has",
            )
        if self.reference.tag is None and (bare := [entry for entry in nameless if not entry.tag]):
            raise UsageError(
                f"--as {self.reference.name} keeps the tag that each image has, and there is no tag for {shown(bare)}",
                hint=f"a file's only image is named by --as {self.reference.name}:TAG",
            )
        return [self._image(entry) for entry in nameless]

    def _image(self, entry: Nameless) -> Image:
        reference = self.reference if self.reference.tag else self.reference.tagged(entry.tag)
        return Image(reference, str(reference), entry.descriptor)


def shown(names: Sequence[object], *, separator: str = ", ") -> str:
    """The first ``names`` in words for people, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(str(name) for name in names[:_SHOWN]) + more


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
    return write_entries(named_entry(name, root) for name, root in images)


def write_entries(entries: Iterable[Descriptor]) -> bytes:
    """``index.json`` of ``entries``, which have their names."""
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in entries]}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def named_entry(name: Reference | None, root: Descriptor) -> Descriptor:
    """The entry of ``index.json`` for an image: its name is there for us and for most tools, and for containerd.

    Kubelets ask containerd for ``repository@digest`` where a reference has a tag as well.
    """
    if name is None:
        return replace(root, annotations={})
    known = name.at(name.digest) if name.digest else name
    return replace(root, annotations={REF_NAME: str(name), CONTAINERD_NAME: str(known)})


def digests_member(members: Iterable[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The last member of a bundle: the digest of each of ``members``, which are named by none (docs/bundle.md).

    It is itself a blob, named by its digest, so that every reader of an image layout reads over it.
    """
    lines = (f"{Digest.of(content).hex}  {name}\n" for name, content in members)
    document = "".join((_DIGESTS_HEAD, *lines)).encode()
    return blob_name(Digest.of(document)), document


def may_list_digests(name: str, size: int) -> bool:
    """Tell whether the last member of a bundle, of ``size`` bytes, may be its list of digests."""
    return digest_of_name(name) is not None and size <= _MAX_DIGESTS


def read_digests(name: str, content: bytes) -> dict[str, Digest] | None:
    """Read the digests that ``digests_member`` wrote, by the names of members; None for any other content.

    Raises ``InvalidContent`` when it is not the content that its name says.
    """
    if not content.startswith(_DIGESTS_HEAD.encode()):
        return None
    if digest_of_name(name) != Digest.of(content):
        raise InvalidContent("its list of digests was altered")
    lines = content.decode("ascii", "replace").removeprefix(_DIGESTS_HEAD).splitlines()
    return {
        member: Digest.parse(f"sha256:{hexadecimal}")
        for hexadecimal, _, member in (line.partition("  ") for line in lines)
    }


def read_index(
    content: bytes, given: GivenName | None, read: Callable[[Descriptor], AnyManifest | None]
) -> tuple[tuple[Image, ...], tuple[Nameless, ...]]:
    """The images that ``index.json`` names by a full reference, and its entries that no full reference names.

    ``given`` names the latter: then there are none left.  An entry without a tag may be no image of its own: oras lists
    every manifest of its store.  ``read`` tells then: a part of another entry is left out, and what refers to a named
    one is in the same repository, under its digest.  Raises ``InvalidContent``, and ``UsageError`` when ``given`` does
    not fit them.
    """
    images: list[Image] = []
    nameless: list[Nameless] = []
    try:
        check_values(content)
        for entry in _entries(load_object(content)):
            if isinstance(entry, Image):
                images.append(entry)
            else:
                nameless.append(entry)
    except InvalidContent as error:
        raise InvalidContent(f"index.json is not usable: {error}") from None
    loose = {entry.descriptor.digest: entry for entry in nameless if not entry.tag}
    parts = _Parts(read)
    if loose:
        for descriptor in [entry.descriptor for entry in images] + [entry.descriptor for entry in nameless]:
            parts.add(descriptor)
    nameless = [entry for entry in nameless if entry.tag or not parts.has(entry.descriptor.digest)]
    referring = [entry for entry in nameless if not entry.tag and parts.is_about_one(entry.descriptor.digest)]
    nameless = [entry for entry in nameless if entry not in referring]
    if given is not None:
        named = given.name(nameless)
        if taken := {image.reference for image in images} & {image.reference for image in named}:
            raise UsageError(
                f"--as gives an image the name of another one in the file: {shown(sorted(taken, key=str))}"
            )
        images += named
        nameless = []
    for entry in referring:
        if (owner := parts.owner(entry.descriptor.digest, images)) is not None:
            reference = owner.at(entry.descriptor.digest)
            images.append(Image(reference, str(reference), entry.descriptor))
        else:
            nameless.append(entry)
    return _distinct(images), tuple(nameless)


class _Parts:
    """The manifests below the entries of ``index.json``, and what each of them refers to."""

    def __init__(self, read: Callable[[Descriptor], AnyManifest | None]) -> None:
        self._read = read
        self._known: set[Digest] = set()
        self._parents: dict[Digest, Digest] = {}
        self._subjects: dict[Digest, Digest] = {}

    def add(self, root: Descriptor) -> None:
        """Read a manifest and all below it, each once."""
        waiting = [root]
        while waiting:
            descriptor = waiting.pop()
            if descriptor.digest in self._known or not (manifest := self._read(descriptor)):
                continue
            self._known.add(descriptor.digest)
            if manifest.subject:
                self._subjects[descriptor.digest] = manifest.subject.digest
            for child in manifest.children() if isinstance(manifest, Index) else ():
                self._parents.setdefault(child.digest, descriptor.digest)
                waiting.append(child)

    def has(self, digest: Digest) -> bool:
        """Tell whether a manifest is a part of another one."""
        return digest in self._parents

    def is_about_one(self, digest: Digest) -> bool:
        """Tell whether a manifest refers to another one that is there."""
        return self._subjects.get(digest) in self._known

    def owner(self, digest: Digest, images: Iterable[Image]) -> Reference | None:
        """The image that a manifest is about, be it by way of another one; None where that has no name."""
        names = {image.descriptor.digest: image.reference for image in images}
        met: set[Digest] = set()
        at: Digest | None = digest
        while at is not None and at not in met:
            if at in names:
                return names[at]
            met.add(at)
            at = self._subjects.get(at) or self._parents.get(at)
        return None


def _distinct(images: Iterable[Image]) -> tuple[Image, ...]:
    """``images`` under references that differ; in older bundles a name of Docker Hub may be a registry of its own.

    Two spellings of one name are one image; when they stand for two, the second one keeps its digest and not the tag.
    """
    found: dict[Reference, Image] = {}
    twice: dict[Reference, None] = {}
    for image in images:
        known = found.get(image.reference)
        if known is not None and known.name == image.name:
            twice[image.reference] = None
        if known is not None and known.descriptor.digest != image.descriptor.digest:
            image = structs.replace(image, reference=image.reference.at(image.descriptor.digest))  # noqa: PLW2901
        found.setdefault(image.reference, image)
    if twice:
        raise InvalidContent(f"index.json gives two images one name: {shown(list(twice))}")
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


def is_haul(index: bytes) -> bool:
    """Tell whether ``index.json`` is of a store of hauler's, which says of each entry what kind it is."""
    try:
        check_values(index)
        entries = load_object(index).get("manifests")
        roots = list(map(Descriptor.from_json, entries)) if isinstance(entries, list) else []
        return bool(roots) and all(map(_hauler_kind, roots))
    except InvalidContent:
        return False


def _hauler_kind(root: Descriptor) -> str | None:
    found = _HAULER_KIND.fullmatch(root.annotations.get("kind", ""))
    return found[1] if found else None


def _entries(document: dict[str, Any]) -> Iterator[Image | Nameless]:
    entries = document.get("manifests")
    if document.get("schemaVersion") != 2 or not isinstance(entries, list):
        raise InvalidContent("it is no image index")
    roots = list(map(Descriptor.from_json, entries))
    signed = {_name_of(root): root.digest for root in roots if _hauler_kind(root) in ("image", "imageIndex")}
    for root in roots:
        name = _name_of(root)
        if len(name) > _MAX_NAME:
            raise InvalidContent(f"an image's name is longer than {_MAX_NAME} characters")
        if not set(name) & set("/:@"):
            yield Nameless(name, root)
            continue
        try:
            reference = Reference.parse(name)
        except InvalidReference as error:
            raise InvalidContent(str(error)) from None
        yield _image(reference, name, root, signed.get(name))


def _name_of(root: Descriptor) -> str:
    """The name that says most: containerd's is whole where ``ref.name`` is a tag or lacks the registry.

    It has no tag beside a digest, as kubelets ask for images; then ``ref.name`` of a bundle has both.
    """
    given, known = root.annotations.get(REF_NAME, ""), root.annotations.get(CONTAINERD_NAME, "")
    return given if known and "@" in known and given == _with_tag_of(given, known) else known or given


def _with_tag_of(name: str, untagged: str) -> str:
    """``untagged``, a repository and a digest, with the tag of ``name``."""
    repository, _, digest = untagged.partition("@")
    return f"{repository}:{name.partition('@')[0].rpartition(':')[2]}@{digest}"


def _image(reference: Reference, name: str, root: Descriptor, subject: Digest | None) -> Image:
    """An image; in hauler's store what speaks about one has that one's name, and a kind (hauler, cli/store/copy.go)."""
    kind, _, _ = (_hauler_kind(root) or "").partition("/")
    if kind in _HAULER_TAGS and subject is not None:
        reference = reference.tagged(f"{fallback_tag(subject)}{_HAULER_TAGS[kind]}")
    elif kind == "referrers":
        reference = reference.at(root.digest)
    else:
        return Image(reference, name, root)
    return Image(reference, str(reference), root)
