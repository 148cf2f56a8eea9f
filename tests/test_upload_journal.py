"""A push that is killed goes on where it was, where the registry can."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.errors import Denied
from syncer.oci import Digest
from syncer.registry import FileUploadJournal, Registries, Unfinished, open_upload_journal
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.disks import file_size_limit
from tests.support.images import digest_of
from tests.support.quirky import Keeps, Quirky, cut_upload, proceed, quirky_registry, status
from tests.support.registries import LOGIN, Registry
from tests.support.registry_end import LocalBlob, file_blob, registries_for, target_at, write

MIB = 1024 * 1024
DIGEST = Digest.of(b"content")


class Killed(BaseException):
    """As if the process ended here."""


class Dying:
    """A journal whose process dies right after a certain save."""

    def __init__(self, journal: FileUploadJournal, saves: int) -> None:
        self._journal = journal
        self._left = saves

    def load(self, repository: str, digest: Digest) -> Unfinished | None:
        return self._journal.load(repository, digest)

    def save(self, repository: str, digest: Digest, state: Unfinished) -> None:
        self._journal.save(repository, digest, state)
        self._left -= 1
        if not self._left:
            raise Killed

    def drop(self, repository: str, digest: Digest) -> None:
        self._journal.drop(repository, digest)


async def push_until(
    registries: Registries, registry: Quirky | Registry, blob: LocalBlob, directory: Path, chunks: int
) -> None:
    """A push that is killed when the registry has taken so many chunks."""
    with open_upload_journal(directory, registry.address) as journal:
        target = target_at(registries, registry.url, journal=Dying(journal, saves=chunks))
        with pytest.raises(Killed):
            await write(target, "app", blob, force=True)


async def push_again(registries: Registries, registry: Quirky | Registry, blob: LocalBlob, directory: Path) -> None:
    with open_upload_journal(directory, registry.address) as journal:
        await write(target_at(registries, registry.url, journal=journal), "app", blob, force=True)


@pytest.mark.parametrize("keeps", ["resumable", "strict"])
async def test_a_killed_push_sends_only_what_the_registry_lacks(keeps: Keeps, tmp_path: Path) -> None:
    """§3 row 46, §0 facts 3 and 4: also a registry that forgets all but the newest location."""
    content = images.noise("killed", 6 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.keeps = keeps
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=3)
        assert registry.received() == 3 * MIB

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content)
        assert len(registry.requests("POST")) == 1
        assert not list((tmp_path / "journal").glob("*.upload"))


@pytest.mark.parametrize("keeps", ["resumable", "strict"])
async def test_a_look_at_an_unfinished_upload_costs_the_push_after_it_nothing(keeps: Keeps, tmp_path: Path) -> None:
    """Also where the registry forgets all but the newest location; and a look leaves no mark of a push."""
    content = images.noise("looked at", 6 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.keeps = keeps
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=3)
        for mark in (tmp_path / "journal").glob("*.running"):
            mark.unlink()

        with open_upload_journal(tmp_path / "journal", registry.address, looks=True) as journal:
            target = target_at(registries, registry.url, journal=journal)
            arrived = await target.arrived("app", blob.descriptor), await target.arrived("other", blob.descriptor)
        await push_again(registries, registry, blob, tmp_path / "journal")

        assert arrived == (3 * MIB, 0)
        assert registry.received() == len(content)
        assert not list((tmp_path / "journal").glob("*.upload"))
    with open_upload_journal(tmp_path / "nowhere", registry.address, looks=True):
        assert not (tmp_path / "nowhere").exists()


async def test_what_arrived_of_the_last_chunk_is_not_sent_again(tmp_path: Path) -> None:
    """§0 fact 4: a registry that keeps the part of a chunk says how much it has."""
    content = images.noise("part", 6 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=2)
        registry.sessions[1].content += content[2 * MIB : 2 * MIB + 5000]

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content) - 5000


async def test_a_push_goes_on_when_the_disk_of_its_journal_is_full(tmp_path: Path) -> None:
    """A journal is a hint: without it the next push sends more, and this one is none the worse."""
    content = images.noise("full", 3 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        with file_size_limit(0):
            await push_again(registries, registry, blob, tmp_path / "journal")

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content)


@pytest.mark.parametrize("lost", ["gone", "forgotten part"])
async def test_a_session_that_the_registry_lost_is_started_over(lost: str, tmp_path: Path) -> None:
    """§3 row 16, §0 fact 5."""
    content = images.noise("lost", 5 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=3)
        if lost == "gone":
            registry.sessions.clear()
        else:
            del registry.sessions[1].content[MIB:]

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert registry.blobs["app"] == {digest_of(content): content}
        assert registry.received() == len(content) + 3 * MIB


async def test_the_session_of_an_interrupted_chunk_is_remembered_too(tmp_path: Path) -> None:
    content = images.noise("interrupted", 5 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", proceed, cut_upload(registry, 70_000))

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert registry.received() == len(content)


@pytest.mark.parametrize("size", [1000, MIB, MIB + 1])
async def test_a_session_is_left_for_a_later_run_if_there_is_something_to_save(size: int, tmp_path: Path) -> None:
    """A blob of one chunk is sent anew, and its session is cancelled."""
    blob = file_blob(tmp_path, images.noise("small", size))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.knows = {"PATCH", "CHUNKS"}
        registry.on("PUT session", proceed, status(403))

        with pytest.raises(Denied):
            await push_again(registries, registry, blob, tmp_path / "journal")

        cancelled, kept = len(registry.requests("DELETE")), len(list((tmp_path / "journal").glob("*.upload")))
        assert (cancelled, kept) == ((0, 1) if size > MIB else (1, 0))


async def test_a_session_that_was_lost_is_forgotten_at_once(tmp_path: Path) -> None:
    """A push that ends before the next chunk leaves nothing that the one after it would ask for."""
    blob = file_blob(tmp_path, images.noise("lost at once", 4 * MIB))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", proceed, status(404))
        registry.on("POST start", proceed, status(403))
        with pytest.raises(Denied):
            await push_again(registries, registry, blob, tmp_path / "journal")
        del registry.seen[:]

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert not registry.requests("GET")


async def test_a_session_that_a_restarted_registry_lost_is_forgotten_at_once(tmp_path: Path) -> None:
    blob = file_blob(tmp_path, images.noise("lost in a restart", 4 * MIB))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=2)
        registry.sessions.clear()
        registry.on("POST start", status(403))
        with pytest.raises(Denied):
            await push_again(registries, registry, blob, tmp_path / "journal")
        del registry.seen[:]

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert not registry.requests("GET")


async def test_a_session_that_has_all_is_only_ended(tmp_path: Path) -> None:
    """The push was killed between the last byte and the commit."""
    content = images.noise("all", 4 * MIB)
    blob = file_blob(tmp_path, content)
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        await push_until(registries, registry, blob, tmp_path / "journal", chunks=3)
        registry.sessions[1].content[:] = content
        del registry.seen[:]

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert [str(seen) for seen in registry.seen] == ["GET session 204", "PUT session 201"]
        assert registry.blobs["app"] == {digest_of(content): content}


async def test_a_session_is_taken_up_at_no_place_that_was_not_reached_before(tmp_path: Path) -> None:
    """§4.3: a journal that somebody else wrote leads nowhere."""
    content = images.noise("elsewhere", 3 * MIB)
    blob = file_blob(tmp_path, content)
    async with (
        quirky_registry() as registry,
        quirky_registry() as elsewhere,
        registries_for(chunk_size=MIB) as registries,
    ):
        with open_upload_journal(tmp_path / "journal", registry.address) as journal:
            journal.save("app", blob.descriptor.digest, Unfinished(f"{elsewhere.url}/sessions/1", MIB))

        await push_again(registries, registry, blob, tmp_path / "journal")

        assert not elsewhere.seen
        assert registry.blobs["app"] == {digest_of(content): content}


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_session_that_has_nothing_is_cancelled_and_one_with_a_chunk_is_kept(
    tmp_path: Path, *, is_begun: bool
) -> None:
    blob = file_blob(tmp_path, images.noise("begun", 3 * MIB))
    async with quirky_registry() as registry, registries_for(chunk_size=MIB) as registries:
        registry.on("PATCH session", *([proceed] if is_begun else []), status(403))

        with pytest.raises(Denied):
            await push_again(registries, registry, blob, tmp_path / "journal")

        assert len(registry.requests("DELETE")) == (0 if is_begun else 1)


async def test_a_push_to_debians_registry_goes_on_after_a_restart_of_both(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """§0 fact 3."""
    content = images.noise("debian", 5 * MIB)
    blob = file_blob(tmp_path, content)
    directory = tmp_path / "journal"
    async with (
        debian_registry(login=LOGIN) as registry,
        registries_for(registry, chunk_size=MIB) as registries,
    ):
        await push_until(registries, registry, blob, directory, chunks=3)
    port = int(registry.address.rpartition(":")[2])
    async with (
        debian_registry(login=LOGIN, port=port) as registry,
        registries_for(registry, chunk_size=MIB) as registries,
    ):
        await push_again(registries, registry, blob, directory)

        assert registries.traffic[registry.address].bytes_out == 2 * MIB
        assert (await client.blob(registry, "app", digest_of(content))).content == content


def test_a_journal_remembers_the_newest_state(tmp_path: Path) -> None:
    with open_upload_journal(tmp_path / "state", "example.com") as journal:
        journal.save("app", DIGEST, Unfinished("https://example.com/1", 10))
        journal.save("app", DIGEST, Unfinished("https://example.com/2", 20, reach=0))
        journal.save("other", DIGEST, Unfinished("https://example.com/3", 30))

    with open_upload_journal(tmp_path / "state", "example.com") as journal:
        assert journal.load("app", DIGEST) == Unfinished("https://example.com/2", 20, reach=0)
        assert journal.load("app", Digest.of(b"other")) is None
        journal.drop("app", DIGEST)
        assert journal.load("app", DIGEST) is None
        assert journal.load("other", DIGEST) == Unfinished("https://example.com/3", 30)
    with open_upload_journal(tmp_path / "state", "example.org") as journal:
        assert journal.load("other", DIGEST) is None


def test_only_the_user_can_read_a_journal(tmp_path: Path) -> None:
    """§4.3: a location may be as good as a password."""
    directory = tmp_path / "state"
    with open_upload_journal(directory, "example.com") as journal:
        journal.save("app", DIGEST, Unfinished("https://example.com/?_state=secret", 10))

    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_an_upload_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    """§3 row 47: two pushes of one blob at once do not get into each other's session."""
    with open_upload_journal(tmp_path, "example.com") as one, open_upload_journal(tmp_path, "example.com") as other:
        one.save("app", DIGEST, Unfinished("https://example.com/one", 10))
        other.save("app", DIGEST, Unfinished("https://example.com/other", 20))
        other.drop("app", DIGEST)

        assert one.load("app", DIGEST) is None  # not known when it was opened
    with open_upload_journal(tmp_path, "example.com") as later:
        assert later.load("app", DIGEST) == Unfinished("https://example.com/one", 10)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_torn_journal_never_lies(tmp_path_factory: pytest.TempPathFactory, noise: bytes, cut: int) -> None:
    """§3 row 46: after a power failure in mid-write the newest whole state is found, or none."""
    directory = tmp_path_factory.mktemp("journal")
    states = [Unfinished(f"https://example.com/{index}", index) for index in range(3)]
    with open_upload_journal(directory, "example.com") as journal:
        for state in states:
            journal.save("app", DIGEST, state)
    (path,) = directory.glob("*.upload")
    path.write_bytes(path.read_bytes()[: cut or None] + noise)

    with open_upload_journal(directory, "example.com") as journal:
        assert journal.load("app", DIGEST) in (None, *states)
        journal.save("app", DIGEST, states[0])
    with open_upload_journal(directory, "example.com") as journal:
        assert journal.load("app", DIGEST) == states[0]


def test_old_uploads_are_forgotten(tmp_path: Path) -> None:
    with open_upload_journal(tmp_path, "example.com") as journal:
        journal.save("app", DIGEST, Unfinished("https://example.com/1", 10))
    (path,) = tmp_path.glob("*.upload")
    os.utime(path, (0, 0))

    with open_upload_journal(tmp_path, "example.com") as journal:
        assert journal.load("app", DIGEST) is None


def test_a_push_that_did_not_finish_is_known_as_such(tmp_path: Path) -> None:
    with open_upload_journal(tmp_path, "example.com") as first:
        assert not first.was_interrupted
    with open_upload_journal(tmp_path, "example.com") as second:
        assert second.was_interrupted
        second.finished()
    with open_upload_journal(tmp_path, "example.com") as third:
        assert not third.was_interrupted
    with open_upload_journal(tmp_path, "example.org") as other:
        assert not other.was_interrupted
