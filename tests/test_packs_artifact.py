from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from syncer.errors import InvalidFile
from syncer.naming import PACKS_HOST, MappingRule, NameMapping
from syncer.oci import Manifest, Reference
from syncer.profiles.definition.artifacts import Spool, open_spool, pack_reference
from syncer.profiles.definition.definition import DefinedArchive
from syncer.profiles.definition.local import spool_pack


def _pack(folder: Path) -> Path:
    pack = folder / "a-1.0.0"
    (pack / "charts").mkdir(parents=True)
    (pack / "pack.json").write_text("{}")
    (pack / "charts" / "a.tgz").write_bytes(b"chart")
    (pack / "link").symlink_to("/etc/passwd")
    return pack


async def _layer(spool: Spool, reference: Reference) -> bytes:
    manifest = await spool.manifest(reference)
    assert isinstance(manifest, Manifest)
    async with spool.blob(reference, manifest.layers[0]).open() as pieces:
        return b"".join([bytes(piece) async for piece in pieces])


async def test_a_pack_of_a_directory_is_packed_the_same_at_any_time(tmp_path: Path) -> None:
    pack = _pack(tmp_path)
    archive = DefinedArchive(name="a", version="1.0.0+build", path=pack)
    with open_spool() as spool:
        first = spool_pack(archive, spool)
        os.utime(pack / "pack.json", (1, 1))
        (pack / "pack.json").chmod(0o600)
        second = spool_pack(archive, spool)

        assert first == second
        assert str(first).startswith("packs.invalid/spectro-packs/archive/a:1.0.0_build@sha256:")
        with tarfile.open(fileobj=io.BytesIO(await _layer(spool, first))) as packed:
            assert packed.getnames() == ["a-1.0.0+build/charts/a.tgz", "a-1.0.0+build/pack.json"]


async def test_a_pack_of_an_archive_keeps_its_bytes_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a-1.0.0.tar.gz"
    path.write_bytes(b"any bytes")
    with open_spool() as spool:
        reference = spool_pack(DefinedArchive(name="a", version="1.0.0", path=path), spool)

        assert await _layer(spool, reference) == b"any bytes"
    assert path.read_bytes() == b"any bytes"


def test_a_pack_lands_where_palette_looks_for_it() -> None:
    mapping = NameMapping.of([MappingRule.of(PACKS_HOST, "")])

    target = mapping.target(pack_reference("a", "1.0.0"), registry="10.0.0.1:8000", base="spectro-content")

    assert str(target) == "10.0.0.1:8000/spectro-content/spectro-packs/archive/a:1.0.0"


def test_a_pack_that_is_not_there_is_named(tmp_path: Path) -> None:
    with open_spool() as spool, pytest.raises(InvalidFile, match="the archive of pack a is not there"):
        spool_pack(DefinedArchive(name="a", version="1.0.0", path=tmp_path / "absent.tar.gz"), spool)
