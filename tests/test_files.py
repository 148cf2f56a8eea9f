"""Files that are written whole and locked, as other processes and a killed run's user see them."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncer.files import lock, room_for, sync_path, try_lock, write_whole
from tests.support.disks import file_size_limit

_HOUR = 3600.0


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def python(program: str, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """A process of its own that runs ``program`` with what ``syncer.files`` has."""
    lines = f"import os, sys\nfrom pathlib import Path\nfrom syncer.files import *\n{program}"
    command = [sys.executable, "-c", lines, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment)


def write_and_die(path: Path, content: str) -> None:
    """Write ``path`` with mode 0600 in a process that is killed when all is written, and has not got its name."""
    program = "os.umask(0)\nwrite_whole(Path(sys.argv[1]), sys.argv[2].encode(), mode=0o600)"
    with python(program, path, content, SYNCER_FAILPOINT="files.written=kill") as process:
        assert process.wait(20) == -9


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))  # noqa: PTH208 - hidden files count


def test_a_run_that_is_killed_leaves_the_old_content_whole(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    write_whole(path, b"old")

    write_and_die(path, "new")

    assert path.read_bytes() == b"old"


def test_what_a_killed_run_leaves_is_hidden_from_others_and_from_patterns(tmp_path: Path) -> None:
    write_and_die(tmp_path / "logins.json", "secret")

    (left,) = tmp_path.iterdir()
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert left.name.startswith(".logins.json.")
    assert left.suffix == ".unfinished"


def test_what_killed_runs_left_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "logins.json"
    write_and_die(path, "long ago")
    (old,) = tmp_path.iterdir()
    os.utime(old, (0, time.time() - 2 * _HOUR))
    write_and_die(path, "perhaps another process is still at it")
    (fresh,) = set(tmp_path.iterdir()) - {old}
    (tmp_path / ".logins.json.of-the-user").touch()
    os.utime(tmp_path / ".logins.json.of-the-user", (0, 0))

    write_whole(path, b"new")

    assert names(tmp_path) == sorted([fresh.name, ".logins.json.of-the-user", "logins.json"])


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")

    with path.open("rb") as reader:
        write_whole(path, b"new")
        assert reader.read() == b"old"

    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize(
    ("mask", "mode", "expected"), [(0o077, 0o644, 0o644), (0, 0o600, 0o600), (0o027, None, 0o640), (0o022, None, 0o644)]
)
def test_a_file_has_the_mode_asked_for_or_the_users(mask: int, mode: int | None, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o666)

    with umask(mask):
        write_whole(path, b"content", mode=mode)

    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_secret_is_its_users_alone_from_the_first_moment_on(tmp_path: Path) -> None:
    """Looked at whenever Python asks the operating system for something: another process may look at any time."""
    program = (
        "directory, modes = sys.argv[1], set()\n"
        "def look(event, arguments):\n"
        "    if event in ('os.chmod', 'os.rename'):\n"
        "        modes.update(oct(file.stat().st_mode)[-3:] for file in Path(directory).iterdir())\n"
        "os.umask(0)\n"
        "sys.addaudithook(look)\n"
        "write_whole(Path(directory, 'logins.json'), b'secret', mode=0o600)\n"
        "print(modes)"
    )

    with python(program, tmp_path) as process:
        seen, _ = process.communicate(timeout=20)

    assert seen == b"{'600'}\n"


def test_a_symbolic_link_is_replaced_and_its_end_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"of somebody else")
    path = tmp_path / "file"
    path.symlink_to("elsewhere")

    write_whole(path, b"content")

    assert (path.is_symlink(), path.read_bytes()) == (False, b"content")
    assert (tmp_path / "elsewhere").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("is_hint", [False, True])
def test_a_disk_that_is_full_costs_nothing_of_what_was_there(is_hint: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    with file_size_limit(100_000), pytest.raises(OSError) as caught:
        write_whole(path, bytes(1_000_000), is_hint=is_hint)

    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_goes_by_way_of_another_directory_is_never_beside_its_name(tmp_path: Path) -> None:
    """A listing of the directory must not show it, not even for a moment: ``serve`` makes tags of the names."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "tags").mkdir()
    program = "write_whole(Path(sys.argv[1]), b'', by_way_of=Path(sys.argv[2]))"
    arguments = [tmp_path / "tags" / "latest", tmp_path / "temporary"]

    with python(program, *arguments, SYNCER_FAILPOINT="files.written=kill") as process:
        assert process.wait(20) == -9

    assert names(tmp_path / "tags") == []
    assert len(names(tmp_path / "temporary")) == 1


def test_a_file_that_another_process_has_locked_is_not_to_be_had_until_it_ends(tmp_path: Path) -> None:
    program = "file = try_lock(Path(sys.argv[1]))\nprint(file is not None, flush=True)\ninput()"
    with python(program, tmp_path / "lock") as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"True\n"

        assert try_lock(tmp_path / "lock") is None

        holder.kill()
        os.close(lock(tmp_path / "lock"))


def test_processes_that_wait_for_a_lock_come_one_after_the_other(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    program = (
        "for _ in range(50):\n"
        "    file, count = lock(Path(sys.argv[1])), Path(sys.argv[2])\n"
        "    write_whole(count, str(int(count.read_text()) + 1).encode(), is_hint=True)\n"
        "    os.close(file)"
    )
    processes = [python(program, tmp_path / "lock", count) for _ in range(4)]

    for process in processes:
        with process:
            assert process.wait(50) == 0

    assert count.read_text() == "200"


def test_a_locked_file_that_its_owner_gives_another_name_is_never_had_by_the_next(tmp_path: Path) -> None:
    """As a bundle is published: the next build must not write into what has become the last one's bundle."""
    program = (
        "path = Path(sys.argv[1])\n"
        "for turn in range(100):\n"
        "    file = lock(path)\n"
        "    assert os.write(file, b'mine') == 4 == os.fstat(file).st_size\n"
        "    path.rename(path.with_name(f'{sys.argv[2]}-{turn}'))\n"
        "    os.close(file)"
    )
    processes = [python(program, tmp_path / "partial", name) for name in range(4)]

    for process in processes:
        with process:
            assert process.wait(50) == 0

    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"mine"}
    assert len(names(tmp_path)) == 400


def test_a_lock_is_not_looked_for_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")

    with pytest.raises(OSError):
        try_lock(tmp_path / "lock")

    assert names(tmp_path) == ["lock"]


def test_a_file_system_that_syncs_no_directory_is_taken_as_it_is() -> None:
    with pytest.raises(OSError) as caught:
        os.fsync(descriptor := os.open("/proc", os.O_RDONLY))
    os.close(descriptor)
    assert caught.value.errno == errno.EINVAL

    sync_path(Path("/proc"))


def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads from this pipe"):
        write_whole(pipe, b"lost")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert names(tmp_path) == ["pipe"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.parametrize("name", ["/proc/self/fd", "/dev/fd", "directory"])
def test_a_name_of_an_open_file_gets_the_content_where_that_file_has_come_to(tmp_path: Path, name: str) -> None:
    """As /dev/stdout does that is led into a file: what the run writes besides stands before and behind it."""
    (tmp_path / "directory").symlink_to("/proc/self/fd")
    with (tmp_path / "log").open("wb", buffering=0) as log:
        (tmp_path / "link").symlink_to(tmp_path / "further")
        (tmp_path / "further").symlink_to(Path(tmp_path, name, str(log.fileno())))
        log.write(b"before, ")
        write_whole(tmp_path / "link", b"content, ")
        write_whole(Path(tmp_path, name, str(log.fileno())), b"more, ")
        log.write(b"after")

    assert (tmp_path / "log").read_bytes() == b"before, content, more, after"
    assert names(tmp_path) == ["directory", "further", "link", "log"]
    assert (tmp_path / "link").is_symlink()


def test_an_open_socket_gets_the_content() -> None:
    """As under systemd, where standard output is one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_whole(Path(f"/dev/fd/{ours.fileno()}"), b"content")
        assert theirs.recv(100) == b"content"


def test_a_device_has_no_disk_that_could_be_too_small() -> None:
    with Path(os.devnull).open("wb") as device:
        assert room_for(device.fileno()) is None


def test_a_socket_is_not_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path := tmp_path / "socket"))
        with pytest.raises(FileExistsError):
            write_whole(path, b"content")
    assert path.is_socket()
    assert names(tmp_path) == ["socket"]
