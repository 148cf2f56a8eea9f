"""Images made from a seed: real ones, with gzip-compressed tar layers, the same bytes every time."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

Compression: TypeAlias = Literal["gzip", "zstd", "none"]
Annotations: TypeAlias = Mapping[str, str]
Json: TypeAlias = dict[str, Any]


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """``algorithm:hex`` of ``content``."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def noise(seed: str, size: int) -> bytes:
    """``size`` bytes that no compressor shrinks, always the same for one seed."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the blob, its media type in OCI's words, and the digest of the tar inside."""

    content: bytes = field(repr=False)
    media_type: str
    diff_id: str
    urls: tuple[str, ...] = ()  # of a foreign layer, which no registry holds
    annotations: Annotations = field(default_factory=dict)

    def descriptor(self, media_type: str | None = None) -> Json:
        """The descriptor of the blob, under another media type if given."""
        document: Json = {
            "mediaType": media_type or self.media_type,
            "digest": digest_of(self.content),
            "size": len(self.content),
        }
        if self.urls:
            document["urls"] = list(self.urls)
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index as bytes, with all that lies under it."""

    content: bytes = field(repr=False)
    media_type: str
    blobs: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # the manifest's own, by digest
    children: tuple[Image, ...] = ()
    platform: Json | None = None  # how an index lists this manifest
    annotations: Annotations = field(default_factory=dict)  # likewise
    artifact_type: str | None = None

    @property
    def digest(self) -> str:
        return digest_of(self.content)

    @property
    def document(self) -> Json:
        """The manifest, parsed."""
        parsed: Json = json.loads(self.content)
        return parsed

    def descriptor(self) -> Json:
        """The entry that stands for this manifest in an index, or as a subject."""
        document: Json = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.content)}
        if self.platform:
            document["platform"] = self.platform
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document

    def manifests(self) -> Iterator[Image]:
        """Every manifest, children before parents, this one last."""
        for child in self.children:
            yield from child.manifests()
        yield self

    def all_blobs(self) -> dict[str, bytes]:
        """Every blob under this manifest, by digest."""
        return {digest: blob for manifest in self.manifests() for digest, blob in manifest.blobs.items()}

    @property
    def size(self) -> int:
        """Bytes of all distinct blobs."""
        return sum(map(len, self.all_blobs().values()))


def layer(seed: str, size: int = 4096, *, compression: Compression = "gzip") -> Layer:
    """A layer with one file of ``size`` bytes of noise.

    A gzip layer is stored, not deflated, so that its size follows from ``size`` and is quick to make.
    """
    plain = tar({f"data/{hashlib.sha256(seed.encode()).hexdigest()[:16]}": noise(seed, size)})
    return layer_of(plain, compression=compression)


def layer_of(plain: bytes, *, compression: Compression = "gzip") -> Layer:
    """A layer of the tar in ``plain``."""
    diff_id = digest_of(plain)
    match compression:
        case "gzip":
            packed = gzip.compress(plain, compresslevel=zlib.Z_NO_COMPRESSION, mtime=0)
            return Layer(packed, f"{OCI_LAYER}+gzip", diff_id)
        case "zstd":
            return Layer(zstd.compress(plain, level=1), f"{OCI_LAYER}+zstd", diff_id)
        case "none":
            return Layer(plain, OCI_LAYER, diff_id)


def foreign_layer(seed: str, url: str) -> Layer:
    """A layer that its vendor keeps: listed in a manifest, never pushed."""
    made = layer(seed)
    return replace(made, media_type="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", urls=(url,))


def image(
    seed: str,
    *,
    layers: Sequence[Layer] | None = None,
    architecture: str = "amd64",
    variant: str | None = None,
    operating_system: str = "linux",
    docker: bool = False,
    annotations: Annotations | None = None,
) -> Image:
    """An image of one platform; two small layers of its own unless ``layers`` are given."""
    if layers is None:
        layers = [layer(f"{seed}/base"), layer(f"{seed}/top")]
    platform = {"architecture": architecture, "os": operating_system} | ({"variant": variant} if variant else {})
    config = _json(
        platform
        | {
            "created": "2024-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/true"], "Labels": {"seed": seed}},
            "rootfs": {"type": "layers", "diff_ids": [item.diff_id for item in layers]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "COPY"} for _ in layers],
        }
    )
    made = manifest(
        config,
        layers,
        config_type=DOCKER_CONFIG if docker else OCI_CONFIG,
        media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
        annotations=annotations,
    )
    return replace(made, platform=platform)


def manifest(
    config: bytes,
    layers: Sequence[Layer],
    *,
    config_type: str,
    media_type: str = OCI_MANIFEST,
    artifact_type: str | None = None,
    subject: Image | None = None,
    annotations: Annotations | None = None,
) -> Image:
    """Any manifest: ``config`` and ``layers`` under the media types given."""
    docker = media_type == DOCKER_MANIFEST
    document: Json = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": digest_of(config), "size": len(config)},
        "layers": [item.descriptor(DOCKER_LAYER if docker and not item.urls else None) for item in layers],
    }
    _add(document, artifact_type, subject, annotations)
    blobs = {digest_of(config): config} | {digest_of(item.content): item.content for item in layers if not item.urls}
    return Image(_json(document), media_type, blobs, artifact_type=artifact_type)


def index(
    *children: Image,
    docker: bool = False,
    artifact_type: str | None = None,
    subject: Image | None = None,
    annotations: Annotations | None = None,
) -> Image:
    """An index, or Docker's manifest list, of ``children``; indexes may be among them."""
    media_type = DOCKER_LIST if docker else OCI_INDEX
    document: Json = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [child.descriptor() for child in children],
    }
    _add(document, artifact_type, subject, annotations)
    return Image(_json(document), media_type, children=children, artifact_type=artifact_type)


def multi_platform(seed: str, *, base: Layer | None = None, docker: bool = False, attested: bool = False) -> Image:
    """An index of linux/amd64, arm64 and arm/v7, each with ``base`` below a layer of its own.

    With ``attested`` it lists an attestation for each, as BuildKit does.
    """
    images = [
        image(
            f"{seed}/{architecture}",
            layers=[*([base] if base else []), layer(f"{seed}/{architecture}")],
            architecture=architecture,
            variant=variant,
            docker=docker,
        )
        for architecture, variant in (("amd64", None), ("arm64", None), ("arm", "v7"))
    ]
    return index(*images, *(map(attestation, images) if attested else ()), docker=docker)


def attestation(subject: Image) -> Image:
    """A provenance manifest as BuildKit lists it beside ``subject``: platform unknown/unknown."""
    statement = Layer(
        _json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"name": "_", "digest": subject.digest}]}),
        "application/vnd.in-toto+json",
        "",
        annotations={"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"},
    )
    config = _json({"architecture": "unknown", "os": "unknown", "rootfs": {"type": "layers", "diff_ids": []}})
    return replace(
        manifest(config, [statement], config_type=OCI_CONFIG),
        platform={"architecture": "unknown", "os": "unknown"},
        annotations={
            "vnd.docker.reference.digest": subject.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        },
    )


def referrer(
    subject: Image, artifact_type: str = "application/vnd.example.sbom", *, annotations: Annotations | None = None
) -> Image:
    """An artifact that says something about ``subject`` (image-spec manifest.md, guidelines for artifacts)."""
    payload = Layer(_json({"about": subject.digest, "kind": artifact_type}), artifact_type, "")
    return manifest(
        b"{}",
        [payload],
        config_type=OCI_EMPTY,
        artifact_type=artifact_type,
        subject=subject,
        annotations=annotations,
    )


def cosign_signature(signed: Image) -> tuple[str, Image]:
    """The tag under which cosign looks for a signature of ``signed``, and a manifest of its form."""
    payload = Layer(
        _json({"critical": {"image": {"docker-manifest-digest": signed.digest}}, "optional": None}),
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "",
        annotations={"dev.cosignproject.cosign/signature": "c2lnbmF0dXJl"},
    )
    config = _json(
        {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": [digest_of(payload.content)]}}
    )
    return f"{signed.digest.replace(':', '-')}.sig", manifest(config, [payload], config_type=OCI_CONFIG)


def chart(name: str, version: str = "1.0.0") -> Image:
    """A Helm chart as an OCI artifact."""
    metadata = {"apiVersion": "v2", "name": name, "version": version}
    files = {f"{name}/Chart.yaml": "".join(f"{key}: {value}\n" for key, value in metadata.items()).encode()}
    packed = Layer(
        gzip.compress(tar(files), compresslevel=9, mtime=0), "application/vnd.cncf.helm.chart.content.v1.tar+gzip", ""
    )
    return manifest(_json(metadata), [packed], config_type="application/vnd.cncf.helm.config.v1+json")


def _add(document: Json, artifact_type: str | None, subject: Image | None, annotations: Annotations | None) -> None:
    if artifact_type:
        document["artifactType"] = artifact_type
    if subject:
        document["subject"] = {
            "mediaType": subject.media_type,
            "digest": subject.digest,
            "size": len(subject.content),
        }
    if annotations:
        document["annotations"] = dict(annotations)


def _json(document: Json) -> bytes:
    return json.dumps(document, indent=2).encode()


def tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
