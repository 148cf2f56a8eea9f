"""Whatever a bundle's parsers are given, they understand it or say that they do not; they never hang."""

from __future__ import annotations

import contextlib
import itertools
import random
import resource
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from syncer.bundle import check_structure, open_bundle, tar, verify_bundle, zstd
from syncer.bundle.framing import Framing, PlainFraming, Stored, ZstdFraming
from syncer.bundle.journal import line_of, load, open_journal
from syncer.bundle.slots import Marks, Slot
from syncer.errors import InvalidBundle
from syncer.oci import Digest
from tests.support import hostile_bundles as hostile

SOUND = {"tar": hostile.plain(hostile.SOUND), "tar.zst": hostile.zstandard(hostile.SOUND)}
positions = st.integers(0, 2**43)
names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=160)


@given(total=st.integers(1, 2**43), position=positions)
@example(total=zstd.FRAME, position=zstd.FRAME - 1)
@example(total=zstd.FRAME + 1, position=zstd.FRAME)
@example(total=5 * 2**30 + 512, position=2**32)
def test_the_place_of_a_byte_follows_from_its_position(total: int, position: int) -> None:
    """Beyond 4 GiB and beyond 8 GiB too: headers and content fill the place without gap or overlap."""
    position %= total
    header = zstd.header_before(position, total)
    before = zstd.offset_of(position - 1) + 1 if position else 0

    assert zstd.offset_of(position) - len(header) == before
    assert zstd.offset_of(total - 1) + 1 == zstd.stored_length(total)
    assert bool(header) == (position % zstd.BLOCK == 0)


@given(total=st.integers(1, 2**33))
def test_every_frame_fits_a_seek_table(total: int) -> None:
    frames = list(zstd.stored_frames(total))

    assert sum(length for length, _ in frames) == zstd.stored_length(total)
    assert sum(content for _, content in frames) == total
    assert all(length < 2**30 and 0 < content <= zstd.FRAME for length, content in frames)


@given(length=st.integers(8, 2**34))
@example(length=zstd.FRAME + 3)
def test_skippable_frames_fill_any_place(length: int) -> None:
    frames = list(zstd.skippable_frames(length))

    assert sum(taken for taken, _ in frames) == length
    assert all(zstd.SKIPPABLE_HEADER <= taken <= zstd.FRAME for taken, _ in frames)


@given(position=st.integers(0, 400_000), length=st.integers(0, 400_000))
@pytest.mark.parametrize("framing", [ZstdFraming(), PlainFraming()])
def test_what_is_interleaved_is_found_by_its_extents(framing: Framing, position: int, length: int) -> None:
    member = random.Random(3).randbytes(400_000)
    stored = Stored(framing, 0, len(member))
    file = b"".join(stored.interleave(0, [member[:70_000], memoryview(member)[70_000:]]))
    length = min(length, len(member) - position)

    found = b"".join(file[start : start + run] for start, run in stored.extents(position, length))

    assert found == member[position : position + length]
    assert len(file) == framing.length(len(member))


@given(name=names, size=st.integers(0, 2**63 - 1))
@example(name="blobs/sha512/" + "0" * 128, size=8 * 2**30)
def test_a_tar_header_says_what_went_into_it(name: str, size: int) -> None:
    header = tar.header(name, size)

    assert tar.parse_own_header(header) == (name, size)
    assert len(header) == tar.header_length(name)


@given(st.binary(max_size=1600))
def test_a_tar_header_of_anything_is_understood_or_refused(block: bytes) -> None:
    with contextlib.suppress(ValueError):
        tar.parse_header(block[:512])
    with contextlib.suppress(ValueError):
        tar.parse_own_header(block)


@given(changes=st.dictionaries(st.integers(0, 1535), st.integers(0, 255), max_size=6), mended=st.booleans())
def test_an_altered_tar_header_is_understood_or_refused(changes: dict[int, int], mended: bool) -> None:
    """Also with a checksum that fits."""
    header = bytearray(tar.header("blobs/sha512/" + "ab" * 64, 12345))
    for offset, value in changes.items():
        header[offset] = value
    if mended:
        for start in (0, 1024):
            block = header[start : start + 512]
            header[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)

    with contextlib.suppress(ValueError):
        parsed = tar.parse_header(bytes(header[:512]))
        assert parsed is None or parsed.size >= 0
    with contextlib.suppress(ValueError):
        name, size = tar.parse_own_header(bytes(header))
        assert tar.header(name, size) == header


@given(st.binary(max_size=300) | st.lists(st.text(max_size=20)).map(lambda keys: "".join(keys).encode()))
@example(b"0 path=x\n")
@example(b"11 path=ab\n11 path=cd\n")
def test_extended_headers_are_understood_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert set(tar.parse_pax(content)) <= {"path", "size"}


@given(st.binary(max_size=300))
def test_a_seek_table_of_anything_is_understood_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        zstd.parse_seek_table(content)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=40))
def test_a_seek_table_says_what_went_into_it(frames: list[zstd.Frame]) -> None:
    table = zstd.seek_table(frames)

    assert zstd.parse_seek_table(table) == frames
    assert zstd.seek_table_length(table[-zstd.SEEK_TABLE_FOOTER :]) == len(table)


@given(content=st.binary(max_size=2000), total=st.integers(0, 4000))
def test_a_frame_is_unpacked_exactly_or_not_at_all(content: bytes, total: int) -> None:
    packed = zstd.pack(content + bytes(512), 3)
    assert packed is not None

    assert zstd.unpack(packed, len(content) + 512) == content + bytes(512)
    if total != len(content) + 512:
        with pytest.raises(ValueError, match="a frame holds"):
            zstd.unpack(packed, total)


@given(frame=st.binary(max_size=400), total=st.integers(0, 5000))
def test_anything_in_the_place_of_a_frame_is_refused(frame: bytes, total: int) -> None:
    for content in (frame, b"\x28\xb5\x2f\xfd\x04\x38" + frame):
        with contextlib.suppress(ValueError):
            assert len(zstd.unpack(content, total)) == total
        with contextlib.suppress(ValueError):
            assert len(zstd.unpack_start(content, total)) <= total


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 2**14), st.binary(max_size=12), st.integers(0, 12)), min_size=1, max_size=3
    )
)
@pytest.mark.parametrize("form", SOUND)
async def test_an_altered_bundle_is_read_or_refused(
    tmp_path: Path, form: str, changes: list[tuple[int, bytes, int]]
) -> None:
    """Bytes are overwritten, inserted and dropped anywhere."""
    content = SOUND[form]
    for position, inserted, dropped in changes:
        position %= len(content)  # noqa: PLW2901 -- brought into the file
        content = content[:position] + inserted + content[position + dropped :]
    (path := tmp_path / "bundle").write_bytes(content)

    with contextlib.suppress(InvalidBundle), open_bundle(path) as bundle:
        check_structure(bundle)
        await verify_bundle(bundle)


def journal_of(framing: Framing) -> list[bytes]:
    """A journal of three slots, with marks."""
    slots = []
    offset = 100
    for number in range(3):
        slots.append(Slot(number, Digest.of(b"%d" % number), 1000 * number, offset))
        offset = slots[-1].end(framing)
    return [
        line_of(["syncer", 1, framing.format, framing.level, 100]),
        *(line_of(["slot", str(slot.digest), slot.size, slot.offset, None]) for slot in slots),
        line_of(["mark", 1, 500, "00" * 16]),
        line_of(["mark", 2, 2000, "ff" * 16]),
    ]


def test_a_journal_is_read_to_its_end() -> None:
    framing = ZstdFraming()

    slots, believed = load(iter(journal_of(framing)), framing, 100)

    assert [slot.size for slot in slots] == [0, 1000, 2000]
    assert list(slots[2].marks) == [(2000, b"\xff" * 16)]
    assert believed == sum(map(len, journal_of(framing)))


ZERO = "sha256:" + "0" * 64
PROOF = "0a" * 16


@pytest.mark.parametrize(
    ("record", "is_believed"),
    [
        (["slot", ZERO, 0, 100, None], True),
        (["slot", ZERO, 2**50 - 1, 100, None], True),
        (["slot", ZERO, 5, 100, 1], True),
        (["slot", ZERO, 5, 100, 2**50 - 1], True),
        (["slot", ZERO, -1, 100, None], False),
        (["slot", ZERO, 2**50, 100, None], False),
        (["slot", ZERO, 5, 100, 0], False),
        (["slot", ZERO, 5, 100, 2**50], False),
        (["slot", ZERO, 5, 101, None], False),
        (["slot", ZERO, 5, 99, None], False),
        (["slot", "sha256:0", 5, 100, None], False),
        (["slot", ZERO, 5, 100], False),
        (["slot", ZERO, 5, 100, None, None], False),
        (["mark", 0, 0, PROOF], False),
        (["other"], False),
        ([], False),
    ],
)
@pytest.mark.parametrize("framing", [ZstdFraming(), PlainFraming()])
def test_a_slot_is_believed_if_it_may_be_one(framing: Framing, record: list[object], *, is_believed: bool) -> None:
    settings_line, line = journal_of(framing)[0], line_of(record)

    slots, believed = load(iter([settings_line, line]), framing, 100)

    assert believed == len(settings_line) + len(line) * is_believed
    assert [[slot.size, slot.offset, slot.packed] for slot in slots] == ([record[2:]] if is_believed else [])


@pytest.mark.parametrize(
    ("record", "is_believed"),
    [
        (["mark", 0, 0, PROOF], True),
        (["mark", 2, 0, PROOF], True),
        (["mark", 2, 2000, PROOF], True),
        (["mark", 2, 2001, PROOF], False),
        (["mark", 2, -1, PROOF], False),
        (["mark", 3, 0, PROOF], False),
        (["mark", -1, 0, PROOF], False),
        (["mark", 2, 0, PROOF[:-1]], False),
        (["mark", 2, 0, PROOF + "0"], False),
        (["mark", 2, 0, PROOF.upper()], False),
        (["mark", 2, 0], False),
    ],
)
def test_a_mark_is_believed_if_its_slot_is_there_and_has_so_many_bytes(
    record: list[object], *, is_believed: bool
) -> None:
    framing = ZstdFraming()
    lines, line = journal_of(framing)[:4], line_of(record)

    slots, believed = load(iter([*lines, line]), framing, 100)

    assert believed == sum(map(len, lines)) + len(line) * is_believed
    marks = [(slot.number, size, proof.hex()) for slot in slots for size, proof in slot.marks]
    assert marks == ([tuple(record[1:])] if is_believed else [])


def test_a_line_of_a_journal_is_whole_short_and_a_list() -> None:
    framing = ZstdFraming()
    first, line = journal_of(framing)[:2]
    text = line[9:-1]
    padded = text.replace(b",", b"," + b" " * 5000, 1)
    for wrong in (
        line[:-1],
        line[:-1] + b"x",
        line[:8] + b"-" + line[9:],
        b"%08x %s\n" % (zlib.crc32(text) ^ 1, text),
        b"%08x %s\n" % (zlib.crc32(padded), padded),
        line_of({"slot": 1}),  # type: ignore[arg-type]
        b"%08x %s\n" % (zlib.crc32(b"{"), b"{"),
        b"\n",
        b"",
    ):
        assert load(iter([first, wrong, line]), framing, 100) == ([], len(first))


def padded_to(length: int, line: bytes) -> bytes:
    """``line`` with as many blanks after its first comma as make it ``length`` bytes."""
    text = line[9:-1].replace(b",", b"," + b" " * (length - len(line)), 1)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_a_line_of_a_journal_has_up_to_4096_bytes() -> None:
    framing = ZstdFraming()
    first, line = journal_of(framing)[:2]

    assert load(iter([first, padded_to(4096, line)]), framing, 100)[1] == len(first) + 4096
    assert load(iter([first, padded_to(4097, line)]), framing, 100) == ([], len(first))


def test_a_journal_of_megabytes_is_read_to_its_end(tmp_path: Path) -> None:
    """No matter that lines lie across the ends of the pieces in which it is read."""
    path, lines = tmp_path / "journal", journal_of(ZstdFraming())
    marks = [line_of(["mark", 2, size % 2001, PROOF]) for size in range(40_000)]
    path.write_bytes(whole := b"".join((*lines, *marks, line_of(["mark", 2, 1234, PROOF]))))
    assert len(whole) > 2 * 2**20

    assert (2, 1234) in reopened(path)[1]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "settings_record",
    [
        ["syncer", 2, "tar.zst", 3, 100],
        ["syncer", 1, "tar", 3, 100],
        ["syncer", 1, "tar.zst", 4, 100],
        ["syncer", 1, "tar.zst", 3, 101],
        ["other", 1, "tar.zst", 3, 100],
    ],
)
def test_a_journal_of_another_kind_of_build_is_not_believed_at_all(settings_record: list[object]) -> None:
    framing = ZstdFraming()
    assert journal_of(framing)[0] == line_of(["syncer", 1, "tar.zst", 3, 100])

    assert load(iter([line_of(settings_record), *journal_of(framing)[1:]]), framing, 100) == ([], 0)


def reopened(path: Path) -> tuple[list[Slot], list[tuple[int, int]]]:
    """What a journal makes the next build know: its slots, and its marks."""
    journal, slots = open_journal(path, ZstdFraming(), 100, resume=True)
    journal.close()
    return slots, [(slot.number, size) for slot in slots for size, _ in slot.marks]


def test_what_is_added_after_a_torn_line_is_believed_by_the_build_after_the_next(tmp_path: Path) -> None:
    path, framing = tmp_path / "journal", ZstdFraming()
    path.write_bytes(b"".join(journal_of(framing))[:-7])

    journal, slots = open_journal(path, framing, 100, resume=True)
    journal.mark(slots[2], 1500, bytes(16))
    journal.close()

    assert reopened(path)[1] == [(1, 500), (2, 1500)]


def test_a_slot_is_in_the_journal_before_its_mark_or_when_the_build_ends(tmp_path: Path) -> None:
    path, framing = tmp_path / "journal", ZstdFraming()
    journal, _ = open_journal(path, framing, 100, resume=True)
    first = Slot(0, Digest.of(b"0"), 1000, 100)
    second = Slot(1, Digest.of(b"1"), 1000, first.end(framing))
    third = Slot(2, Digest.of(b"2"), 1000, second.end(framing))

    journal.slot(first)
    journal.mark(first, 700, bytes(16))
    journal.slot(second)
    journal.slot(third)
    assert [[slot.offset for slot in slots] for slots, _ in [reopened(path)]] == [[100]]
    journal.close()

    slots, marks = reopened(path)
    assert [(slot.digest, slot.size, slot.offset) for slot in slots] == [
        (slot.digest, slot.size, slot.offset) for slot in (first, second, third)
    ]
    assert marks == [(0, 700)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_journal_is_begun_anew_when_nothing_is_to_be_gone_on_with(tmp_path: Path) -> None:
    path, framing = tmp_path / "journal", ZstdFraming()
    path.write_bytes(b"".join(journal_of(framing)))

    journal, slots = open_journal(path, framing, 100, resume=False)
    journal.close()

    assert slots == []
    assert path.read_bytes() == journal_of(framing)[0]


def test_a_journal_that_is_one_endless_line_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with path.open("wb") as file:
        file.truncate(64 * 2**20)

    tracemalloc.start()
    try:
        slots, _ = reopened(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert slots == []
    assert peak < 8 * 2**20
    assert path.read_bytes() == journal_of(ZstdFraming())[0]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_a_journal_that_cannot_be_written_leaves_no_file_open_and_ends_no_build_again(tmp_path: Path) -> None:
    """The full disk is an error once: when the journal is begun, or for the mark; closing it says nothing more."""
    framing = ZstdFraming()
    journal, _ = open_journal(tmp_path / "journal", framing, 100, resume=True)
    journal.slot(Slot(0, Digest.of(b"0"), 1000, 100))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = open_files()

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            open_journal(tmp_path / "other", framing, 100, resume=True)
        assert open_files() == before
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert open_files() == before - 1
    assert reopened(tmp_path / "journal") == ([], [])


@given(
    line=st.integers(0, 5),
    record=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
        lambda values: st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=3), values, max_size=2),
        max_leaves=9,
    ),
)
@example(line=1, record=["slot", "sha256:" + "0" * 64, 2**62, 100, None])
@example(line=2, record=["mark", 0, True, "00" * 16])
def test_a_journal_of_any_record_is_believed_up_to_it(line: int, record: object) -> None:
    framing = ZstdFraming()
    lines = journal_of(framing)
    lines[line] = line_of(record)  # type: ignore[arg-type]

    slots, believed = load(iter(lines), framing, 100)

    assert believed <= sum(map(len, lines))
    assert len(slots) <= 3
    assert all(before.end(framing) == after.offset for before, after in itertools.pairwise(slots))


@given(position=st.integers(0, 500), change=st.binary(min_size=1, max_size=5))
def test_an_altered_journal_is_believed_up_to_the_change(position: int, change: bytes) -> None:
    framing = ZstdFraming()
    whole = b"".join(journal_of(framing))
    altered = whole[:position] + change + whole[position + len(change) :]
    lines = altered.splitlines(keepends=True)

    _, believed = load(iter(lines), framing, 100)

    assert altered == whole or believed <= position


@given(st.lists(st.integers(0, 50)))
def test_a_mark_replaces_what_was_known_beyond_it(sizes: list[int]) -> None:
    marks = Marks()
    expected: dict[int, bytes] = {}
    for number, size in enumerate(sizes):
        proof = number.to_bytes(16, "big")
        marks.add(size, proof)
        expected = {known: value for known, value in expected.items() if known < size} | {size: proof}

    assert dict(marks) == expected
