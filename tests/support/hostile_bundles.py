"""Bundles that no honest tool writes, each named for the threat that it is (registries.md, §4.1).

Everything here is made byte by byte, without the code under test.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME = "org.opencontainers.image.ref.name"
NAME = "registry.example/app:v1"

Json = Any
Members = list[bytes]


def tar_header(
    name: str | bytes,
    size: int,
    *,
    kind: bytes = b"0",
    size_field: bytes | None = None,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
    mode: bytes = b"0000644\0",
) -> bytes:
    """A tar header of which any field may be wrong."""
    name = name.encode() if isinstance(name, str) else name
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = mode
    block[108:124] = b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size if size_field is None else size_field.ljust(12, b"\0")
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = magic
    block[329:345] = b"0000000\0" * 2
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def member(name: str | bytes, content: bytes = b"", **fields: Any) -> bytes:
    """A whole member: header, content, padding."""
    return tar_header(name, len(content), **fields) + content + bytes(-len(content) % 512)


def plain(members: Sequence[bytes], *, end: bytes = bytes(1024)) -> bytes:
    """A tar of ``members``."""
    return b"".join(members) + end


def stored_frame(content: bytes, *, window: int = 0x38, says: int | None = None, block_size: int = 2**17) -> bytes:
    """A zstd frame of raw blocks."""
    blocks = [content[start : start + block_size] for start in range(0, len(content), block_size)]
    framed = b"".join(
        (len(block) << 3 | (number == len(blocks) - 1)).to_bytes(3, "little") + block
        for number, block in enumerate(blocks)
    )
    return b"\x28\xb5\x2f\xfd\x80" + bytes([window]) + struct.pack("<I", says or len(content)) + framed


def packed_frame(content: bytes) -> bytes:
    """A compressed zstd frame of the form that syncer writes."""
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={parameter.window_log: 17, parameter.checksum_flag: 1})
    return compressor.compress(content) + compressor.flush()


def skippable(content: bytes, magic: int = 0x184D2A50) -> bytes:
    return struct.pack("<II", magic, len(content)) + content


def seek_table(frames: Sequence[tuple[int, int]], *, flags: int = 0, count: int | None = None) -> bytes:
    entries = b"".join(struct.pack("<II", *frame) for frame in frames)
    footer = struct.pack("<IBI", len(frames) if count is None else count, flags, 0x8F92EAB1)
    return skippable(entries + footer, 0x184D2A5E)


def framed(frames: Sequence[tuple[bytes, int]], **table: Any) -> bytes:
    """A file of ``frames``, each with the size of its content, and their seek table."""
    listed = [(len(frame), size) for frame, size in frames]
    return b"".join(frame for frame, _ in frames) + seek_table(listed, **table)


END = (packed_frame(bytes(1024)), 1024)
"""The frame that ends a tar."""


def zstandard(members: Sequence[bytes]) -> bytes:
    """A ``.tar.zst`` of ``members``, each in a stored frame."""
    return framed([*((stored_frame(content), len(content)) for content in members), END])


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> bytes:
    """The member that holds ``content`` under its digest."""
    return member(f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)


def described(content: bytes, media_type: str, **fields: Json) -> Json:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)} | fields


def encoded(document: Json) -> bytes:
    return json.dumps(document).encode()


CONFIG = encoded({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
LAYER = b"not really a layer, but nobody looks inside" * 10


def manifest_of(config: Json = None, layers: Sequence[Json] | None = None, **fields: Json) -> Json:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config or described(CONFIG, OCI_CONFIG),
        "layers": [described(LAYER, OCI_LAYER)] if layers is None else layers,
    } | fields


def index_of(*manifests: Json, **fields: Json) -> Json:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)} | fields


def named(root: Json, name: str = NAME) -> Json:
    return root | {"annotations": {REF_NAME: name}}


LAYOUT = member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
MANIFEST = encoded(manifest_of())
INDEX = member("index.json", encoded(index_of(named(described(MANIFEST, OCI_MANIFEST)))))
CONTENT = [blob(MANIFEST), blob(CONFIG), blob(LAYER)]
SOUND = [LAYOUT, *CONTENT, INDEX]


def with_root(
    content: bytes, media_type: str = OCI_MANIFEST, name: str = NAME, *, more: Sequence[bytes] = ()
) -> Members:
    """A layout whose one image has ``content`` as its root."""
    return [
        LAYOUT,
        blob(CONFIG),
        blob(LAYER),
        blob(content),
        *more,
        with_index(named(described(content, media_type), name)),
    ]


def with_index(*entries: Json) -> bytes:
    return member("index.json", encoded(index_of(*entries)))


def with_manifest(**fields: Json) -> Members:
    """A layout whose one image has a manifest with some fields replaced."""
    return with_root(encoded(manifest_of() | fields))


def with_entry(**fields: Json) -> Members:
    """A layout whose ``index.json`` describes its one image with some fields replaced."""
    return [LAYOUT, *CONTENT, with_index(named(described(MANIFEST, OCI_MANIFEST)) | fields)]


def folded(folder: str) -> Members:
    """A sound layout in a folder."""
    return [
        member(f"{folder}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        *(member(f"{folder}/{blob_name(content)}", content) for content in (MANIFEST, CONFIG, LAYER)),
        member(f"{folder}/index.json", encoded(index_of(named(described(MANIFEST, OCI_MANIFEST))))),
    ]


def extended(records: bytes, kind: bytes = b"x") -> bytes:
    return member("pax", records, kind=kind)


def record(key: str, value: str | bytes) -> bytes:
    text = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    length = len(text) + len(str(len(text)))
    return str(length + (len(str(length)) > len(str(len(text))))).encode() + text


def nested(depth: int) -> Members:
    """Indexes within indexes, ``depth`` of them above the manifest."""
    content, media_type = MANIFEST, OCI_MANIFEST
    blobs = list(CONTENT)
    for _ in range(depth):
        content, media_type = encoded(index_of(described(content, media_type))), OCI_INDEX
        blobs.append(blob(content))
    return [LAYOUT, *blobs, with_index(named(described(content, media_type)))]


def wide(count: int) -> Members:
    """An index of ``count`` manifests, all different."""
    manifests = [encoded(manifest_of(annotations={"n": str(number)})) for number in range(count)]
    top = encoded(index_of(*(described(content, OCI_MANIFEST) for content in manifests)))
    return with_root(top, OCI_INDEX, more=[blob(content) for content in manifests])


def names() -> dict[str, str | bytes]:
    """Names that must never become paths."""
    upper = hashlib.sha256(LAYER).hexdigest().upper()
    return {
        "climbing": "../../etc/cron.d/evil",
        "climbing inside": f"blobs/sha256/../../{upper.lower()}",
        "absolute": "/etc/passwd",
        "a drive": "C:\\evil",
        "backslashes": "blobs\\sha256\\evil",
        "a zero byte": b"index.json\0/evil",
        "control characters": "\x1b[2Jevil",
        "not ascii": "índex.json".encode(),
        "upper case": f"blobs/sha256/{upper}",
        "a short digest": "blobs/sha256/abcd",
        "an unknown algorithm": f"blobs/md5/{upper.lower()[:32]}",
        "an unknown file among the blobs": "blobs/sha256/evil.sh",
        "an unknown file among the pads": ".pad/evil.sh",
        "a file inside a file": "index.json/evil",
        "empty": "",
    }


def plain_tars() -> dict[str, Callable[[], bytes]]:
    """What only a plain tar can do."""
    kinds = {
        "hard link": b"1",
        "symbolic link": b"2",
        "character device": b"3",
        "block device": b"4",
        "pipe": b"6",
        "contiguous file": b"7",
        "sparse file": b"S",
        "multi-volume file": b"M",
        "long link name": b"K",
        "unknown kind": b"Z",
    }
    sizes = {
        "negative in base 256": b"\xff" * 12,
        "huge in base 256": b"\x80" + b"\xff" * 11,
        "beyond the end": b"77777777777\0",
        "no number": b"twelve\0",
        "negative in octal": b"-0000000001\0",
        "a float": b"1.5\0",
    }
    extensions = {
        "infinite size": extended(record("size", "Infinity")),
        "negative size": extended(record("size", "-1")),
        "size of thirty digits": extended(record("size", "9" * 30)),
        "another name": extended(record("path", "../evil")),
        "a second path": extended(record("path", "index.json") + record("path", "../evil")),
        "a link": extended(record("linkpath", "/etc/passwd")),
        "a sparse map": extended(record("GNU.sparse.size", "1")),
        "an unknown key": extended(record("evil", "1")),
        "a global path": extended(record("path", "index.json"), b"g"),
        "a record of length zero": extended(b"0 path=x\n"),
        "a record that is longer than it is": extended(b"99 path=x\n"),
        "a record without end": extended(b"9" * 600),
        "too long": extended(record("comment", b"x" * 70_000)),
        "a name of sixty kilobytes": member("././@LongLink", b"x" * 60_000, kind=b"L"),
        "a name that is too long": member("././@LongLink", b"x" * 70_000, kind=b"L"),
        "endless ones": extended(record("comment", "x")) * 300 + extended(b"x"),
    }
    return (
        {
            f"an entry that is a {name}": (
                lambda kind=kind: plain([*SOUND, member("blobs/sha256", kind=kind, link=b"/etc")])
            )
            for name, kind in kinds.items()
        }
        | {
            f"a size that is {name}": (lambda field=field: plain([*SOUND, member(blob_name(b""), size_field=field)]))
            for name, field in sizes.items()
        }
        | {
            f"an extended header with {name}": (lambda header=header: plain([LAYOUT, *CONTENT, header, INDEX]))
            for name, header in extensions.items()
        }
        | {
            "an extended header at the end": lambda: plain([*SOUND, extended(record("path", "index.json"))]),
            "a directory that climbs": lambda: plain([*SOUND, member("../etc/", kind=b"5")]),
            "two layouts in folders": lambda: plain([*folded("a"), *folded("b")]),
            "a blob twice, once by way of its folder": lambda: plain([*folded("a"), member("./a/index.json", b"{}")]),
            "a directory with a size": lambda: plain([*SOUND, member("blobs/", kind=b"5", size_field=b"1000\0")]),
            "a wrong checksum": lambda: plain([*SOUND, member(blob_name(b""), checksum=b"000000\0 ")]),
            "another magic": lambda: plain([*SOUND, member(blob_name(b""), magic=b"evil\0\0\0\0")]),
            "the same file with a dot before it": lambda: plain([*SOUND, member("./index.json", b"{}")]),
            "the same file by an extended header": lambda: plain(
                [*SOUND, extended(record("path", "index.json")), member("x", b"{}")]
            ),
            "the same file by a long name": lambda: plain(
                [*SOUND, member("././@LongLink", b"index.json\0", kind=b"L"), member("x", b"{}")]
            ),
            "a second tar behind the first": lambda: plain(SOUND) + plain(SOUND),
            "something behind its end": lambda: plain(SOUND, end=bytes(2048) + b"evil".ljust(512, b"\0") + bytes(512)),
            "megabytes behind its end": lambda: plain(SOUND, end=bytes(2**21)),
            "one block of zeros at its end": lambda: plain(SOUND, end=bytes(512)),
            "no end": lambda: plain(SOUND, end=b""),
            "something in the padding of a blob": lambda: plain([LAYOUT, *CONTENT[:2], CONTENT[2][:-1] + b"x", INDEX]),
            "something in a pad": lambda: plain([*SOUND, member(".pad/0", b"evil")]),
        }
    )


def blob_name(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def layouts() -> dict[str, Callable[[], Members]]:
    """What both forms can do: members of a tar that are each well-formed."""
    other = b"other content of the same length"
    twice = encoded(manifest_of()).replace(b'"config"', b'"config": {}, "config"', 1)
    sizes: dict[str, Json] = {
        "negative": -1,
        "a float": float(len(MANIFEST)),
        "beyond 63 bits": 2**63,
        "true": True,
        "text": str(len(MANIFEST)),
        "missing": None,
        "too large": len(MANIFEST) + 1,
        "too small": len(MANIFEST) - 1,
    }
    digests = {
        "climbing": "sha256:../../../etc/passwd",
        "upper case": digest_of(MANIFEST).upper().replace("SHA", "sha"),
        "too short": digest_of(MANIFEST)[:-1],
        "of an unknown algorithm": "md5:" + "0" * 32,
        "no digest": "latest",
        "a number": 7,
    }
    references = {
        "climbing": "../../evil/x:v1",
        "with control characters": "evil.example/\x1b]0;x\x07app:v1",
        "with a new line": "evil.example/app:v1\nhint: run this",
        "with spaces": "evil.example/a pp:v1",
        "with a query": "evil.example/app:v1?x=y",
        "without end": "evil.example/" + "a" * 100_000,
        "a url": "https://evil.example/app:v1",
    }
    return (
        {
            f"a name that is {name}": (lambda path=path: [*SOUND, member(path, b"evil")])
            for name, path in names().items()
        }
        | {f"a root's size that is {name}": (lambda size=size: with_entry(size=size)) for name, size in sizes.items()}
        | {
            f"a layer's size that is {name}": (
                lambda size=size: with_manifest(layers=[described(LAYER, OCI_LAYER) | {"size": size}])
            )
            for name, size in sizes.items()
        }
        | {
            f"a root's digest that is {name}": (lambda text=text: with_entry(digest=text))
            for name, text in digests.items()
        }
        | {
            f"a layer's digest that is {name}": (
                lambda text=text: with_manifest(layers=[described(LAYER, OCI_LAYER) | {"digest": text}])
            )
            for name, text in digests.items()
        }
        | {
            f"an image's name that is {name}": (
                lambda text=text: [LAYOUT, *CONTENT, with_index(named(described(MANIFEST, OCI_MANIFEST), text))]
            )
            for name, text in references.items()
        }
        | {
            "a blob twice": lambda: [*SOUND, blob(LAYER)],
            "index.json twice": lambda: [*SOUND, INDEX],
            "two images of one name": lambda: [
                LAYOUT,
                *CONTENT,
                with_index(*(named(described(MANIFEST, OCI_MANIFEST)) for _ in range(2))),
            ],
            "a manifest that is not what its digest names": lambda: [
                LAYOUT,
                *CONTENT[1:],
                member(blob_name(MANIFEST), MANIFEST.replace(b"2", b"3", 1)),
                INDEX,
            ],
            "a layer that is not what its digest names": lambda: with_root(
                encoded(manifest_of(layers=[{"mediaType": OCI_LAYER, "digest": digest_of(other), "size": len(other)}])),
                more=[member(blob_name(other), other[::-1])],
            ),
            "a layer that is missing": lambda: [LAYOUT, *CONTENT[:2], INDEX],
            "a config that is missing": lambda: [LAYOUT, CONTENT[0], CONTENT[2], INDEX],
            "a root that is missing": lambda: [LAYOUT, *CONTENT[1:], INDEX],
            "a child that is missing": lambda: with_root(
                encoded(index_of({"mediaType": OCI_MANIFEST, "digest": digest_of(b"lost"), "size": 4})), OCI_INDEX
            ),
            "no index.json": lambda: [LAYOUT, *CONTENT],
            "no oci-layout": lambda: [*CONTENT, INDEX],
            "another version of oci-layout": lambda: [
                member("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'),
                *CONTENT,
                INDEX,
            ],
            "an oci-layout that is a list": lambda: [member("oci-layout", b"[]"), *CONTENT, INDEX],
            "a huge oci-layout": lambda: [member("oci-layout", b" " * 100_000), *CONTENT, INDEX],
            "an index.json that is no JSON": lambda: [LAYOUT, *CONTENT, member("index.json", b"{")],
            "an index.json that is a list": lambda: [LAYOUT, *CONTENT, member("index.json", b"[]")],
            "an index.json without manifests": lambda: [LAYOUT, *CONTENT, member("index.json", b'{"schemaVersion":2}')],
            "an index.json that is not Unicode": lambda: [LAYOUT, *CONTENT, member("index.json", b'{"a":"\xff\xfe"}')],
            "an index.json with a key twice": lambda: [
                LAYOUT,
                *CONTENT,
                member("index.json", b'{"schemaVersion":2,"manifests":[],"manifests":[]}'),
            ],
            "an index.json as deep as a well": lambda: [LAYOUT, *CONTENT, member("index.json", b"[" * 100_000)],
            "annotations that are a list": lambda: with_entry(annotations=[NAME]),
            "annotations that are no text": lambda: with_entry(annotations={REF_NAME: 7}),
            "a manifest with a key twice": lambda: with_root(twice),
            "a manifest as deep as a well": lambda: with_root(
                b'{"schemaVersion":2,"config":{},"layers":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
            ),
            "a manifest that is an index too": lambda: with_manifest(manifests=[]),
            "an index that is called a manifest": lambda: with_root(encoded(index_of()), OCI_MANIFEST),
            "a manifest that is called an index": lambda: (
                [LAYOUT, *CONTENT, with_index(named(described(MANIFEST, OCI_INDEX)))]
            ),
            "a manifest of an unknown media type": lambda: with_manifest(mediaType="text/html"),
            "a manifest of Docker's schema 1": lambda: with_root(b'{"schemaVersion":1,"fsLayers":[]}'),
            "a manifest whose layers are no list": lambda: with_manifest(layers={}),
            "one layer with two sizes": lambda: with_manifest(
                layers=[described(LAYER, OCI_LAYER), described(LAYER, OCI_LAYER) | {"size": 1}]
            ),
            "indexes nested nine deep": lambda: nested(10),
        }
    )


def zstd_files() -> dict[str, Callable[[], bytes]]:
    """What only zstd frames and a seek table can do."""
    sound = [*((stored_frame(content), len(content)) for content in SOUND), END]
    zeros = bytes(10_000_000)
    whole = b"".join((*SOUND, bytes(1024)))

    def frames(*more: tuple[bytes, int]) -> bytes:
        """A sound file with some frames before its last two."""
        return framed([*sound[:-2], *more, *sound[-2:]])

    return {
        "an unknown file in a frame": lambda: frames((stored_frame(member("evil.sh", b"x")), 1024)),
        "a table that lists too few frames": lambda: framed(sound)[:-17] + framed(sound)[-9:],
        "a table of four billion frames": lambda: framed(sound, count=2**32 - 1),
        "a table of no frames": lambda: b"".join(frame for frame, _ in sound) + seek_table([]),
        "a table whose frames are longer than the file": lambda: (
            b"".join(frame for frame, _ in sound) + seek_table([(len(frame) + 1, size) for frame, size in sound])
        ),
        "a table that shifts two frames": lambda: (
            b"".join(frame for frame, _ in sound)
            + seek_table(
                [(len(sound[0][0]) + 1, sound[0][1]), (len(sound[1][0]) - 1, sound[1][1])]
                + [(len(frame), size) for frame, size in sound[2:]]
            )
        ),
        "a table that lies about a frame's content": lambda: (
            b"".join(frame for frame, _ in sound) + seek_table([(len(frame), size + 512) for frame, size in sound])
        ),
        "a table that calls content skippable": lambda: (
            b"".join(frame for frame, _ in sound) + seek_table([(len(frame), 0) for frame, size in sound])
        ),
        "a table with frames of no length": lambda: framed([*sound, (b"", 0), (b"", 0)]),
        "a table with checksums": lambda: framed(sound, flags=0x80),
        "a table with reserved bits": lambda: framed(sound, flags=0x04),
        "no table": lambda: b"".join(frame for frame, _ in sound),
        "a tar in one frame with a table": lambda: framed([(stored_frame(whole), len(whole))]),
        "a frame that grows ten thousandfold": lambda: frames(
            (packed_frame(member(blob_name(zeros), zeros)), len(zeros) + 512)
        ),
        "a frame that grows more than its table says": lambda: frames(
            (packed_frame(member(blob_name(zeros), zeros)), 1024)
        ),
        "a frame that grows less than its table says": lambda: frames(
            (packed_frame(member(blob_name(b"x"), b"x")), 1536)
        ),
        "a frame of one gigabyte in four bytes": lambda: frames(
            (stored_frame(member(blob_name(b"x"), b"x"), says=2**30), 2**30)
        ),
        "a frame with a window of two gigabytes": lambda: frames(
            (stored_frame(member(blob_name(b"x"), b"x"), window=0xA8), 1024)
        ),
        "a single segment of four gigabytes": lambda: frames(
            (b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 2**32 - 1) + b"\x01\x00\x00", 2**32 - 1)
        ),
        "a frame that needs a dictionary": lambda: frames((b"\x28\xb5\x2f\xfd\x01\x38\x07\x01\x00\x00", 512)),
        "two frames in one place": lambda: frames((stored_frame(blob(b"x")) + stored_frame(blob(b"y")), 1024)),
        "two packed frames in one place": lambda: frames((packed_frame(blob(b"x")) + packed_frame(blob(b"y")), 1024)),
        "two members in one frame": lambda: frames((packed_frame(blob(b"x") + blob(b"y")), 2048)),
        "a frame without its checksum": lambda: frames((packed_frame(blob(b"x"))[:-4], 1024)),
        "a frame with another checksum": lambda: frames((packed_frame(blob(b"x"))[:-4] + b"evil", 1024)),
        "noise in a frame": lambda: frames((b"\x28\xb5\x2f\xfd\x04\x38" + hashlib.sha512(b"noise").digest(), 1024)),
        "something in a skippable frame": lambda: frames((skippable(b"evil" * 100), 0)),
        "a skippable frame of another kind": lambda: frames((skippable(bytes(100), 0x184D2A53), 0)),
        "a skippable frame that reaches further": lambda: frames((skippable(bytes(100))[:-50], 0)),
        "an empty tar": lambda: framed([sound[-1]]),
        "a member behind the end": lambda: framed([*sound, sound[1]]),
        "a second end": lambda: framed([*sound, sound[-1]]),
        "no end": lambda: framed(sound[:-1]),
        "a link in a frame": lambda: frames((stored_frame(tar_header("blobs/sha256", 0, kind=b"2", link=b"/")), 512)),
        "a mode of its own": lambda: frames((stored_frame(member(blob_name(b"x"), b"x", mode=b"0004777\0")), 1024)),
        "another block size": lambda: frames((stored_frame(blob(b"x" * 1000), block_size=1000), 1536)),
        "an extended header in a frame": lambda: frames(
            (stored_frame(extended(record("path", "../evil")) + member("x")), 1536)
        ),
        "a pad in a frame": lambda: frames((stored_frame(member(".pad/0", bytes(512))), 1024)),
        "a huge index.json": lambda: framed(
            [*sound[:-2], (stored_frame(content := member("index.json", b" " * 33_600_000)), len(content)), sound[-1]]
        ),
        "gzip": lambda: b"\x1f\x8b\x08" + whole,
        "nothing at all": lambda: b"",
        "a table and nothing else": lambda: seek_table([]),
        "one byte": lambda: b"\x28",
    }


def corpus() -> dict[str, Callable[[], bytes]]:
    """Every hostile bundle, by the threat that it is."""
    made: dict[str, Callable[[], bytes]] = {}
    for name, members in layouts().items():
        made[f"tar with {name}"] = lambda members=members: plain(members())  # type: ignore[misc]
        made[f"tar.zst with {name}"] = lambda members=members: zstandard(members())  # type: ignore[misc]
    made |= {f"tar with {name}": make for name, make in plain_tars().items()}
    made |= {f"tar.zst with {name}": make for name, make in zstd_files().items()}
    return made


def bombs() -> dict[str, Callable[[], bytes]]:
    """Bundles that would fill the memory of a reader that trusts them."""
    large = 30 * 2**20
    shells = b'{"schemaVersion":2,"manifests":[' + b"[]," * (large // 3) + b"[]]}"
    text = b'{"schemaVersion":2,"manifests":[],"x":"' + b"x" * large + b'"'
    shallow = b'{"schemaVersion":2,"config":{},"layers":[' + b"{}," * 1_300_000 + b"{}]}"
    packed = packed_index(large)
    return {
        "an index.json of ten million lists": lambda: plain([LAYOUT, *CONTENT, member("index.json", shells)]),
        "an index.json of ten million lists beside docker's manifest.json": lambda: plain(
            [LAYOUT, *CONTENT, member("manifest.json", b"[]"), member("index.json", shells)]
        ),
        "a manifest.json of ten million lists": lambda: plain(
            [member("manifest.json", b"[" + b"[]," * 10**7 + b"[]]")]
        ),
        "an index.json of one long text": lambda: plain([LAYOUT, *CONTENT, member("index.json", text)]),
        "an index.json that grows a hundredfold": lambda: packed,
        "a manifest of a million objects": lambda: plain(with_root(shallow)),
        "a hundred thousand members": lambda: plain([LAYOUT, *many_members(100_001), INDEX]),
        "two hundred thousand directories": lambda: plain([*[member("blobs/", kind=b"5")] * 200_001, *SOUND]),
        "a terabyte that is not there": lambda: plain(
            [LAYOUT, member(blob_name(b""), size_field=b"\x80" + (2**40).to_bytes(11, "big"))]
        ),
    }


def many_members(count: int) -> Iterator[bytes]:
    """Empty blobs, made faster than ``member`` makes them."""
    sample = member(f"blobs/sha256/{0:064x}")
    zeros = int(sample[148:154], 8) - 64 * ord("0")
    for number in range(count):
        name = b"%064x" % number
        yield sample[:13] + name + sample[77:148] + b"%06o" % (zeros + sum(name)) + sample[154:]


def packed_index(size: int) -> bytes:
    """A bundle whose ``index.json`` is compressed as far as a reader may take it."""
    noise = b"".join(hashlib.sha512(str(number).encode()).digest() for number in range(size // 100 // 64))
    content = member("index.json", b'{"x":"' + noise.hex().encode() + b" " * (size - 2 * len(noise)) + b'"')
    return framed([(stored_frame(LAYOUT), len(LAYOUT)), (packed_frame(content), len(content)), END])
