import json
import os
import socket
import stat
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from syncer.errors import TargetError, UsageError
from syncer.report import RegistryAccount
from syncer.report.summary import require_writable, write_account, write_report
from tests.test_report import A_NIGHT, account

SCHEMA = Path(__file__).parent.parent / "docs" / "report.schema.json"


def test_the_report_is_what_its_schema_says(tmp_path: Path) -> None:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    path = tmp_path / "report.json"

    write_report(path, account(*A_NIGHT).report([RegistryAccount(registry="t.io", requests=3)]))

    document = json.loads(path.read_text())
    assert list(document) == [
        "kind",
        "run_id",
        "started",
        "ended",
        "version",
        "command",
        "name",
        "exit_code",
        "targets",
        "totals",
        "images",
        "registries",
        "referrers_unknown",
        "warnings",
        "measured",
        "bound",
        "timeline",
    ]
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document)


def test_every_figure_of_the_report_is_described() -> None:
    schema = json.loads(SCHEMA.read_text())
    document = account(*A_NIGHT).report([RegistryAccount(registry="t.io")]).to_json()

    assert list(schema["$defs"]["totals"]["properties"]) == list(document["totals"])
    assert list(schema["$defs"]["image"]["properties"]) == list(document["images"][0])
    assert list(schema["$defs"]["registry"]["properties"]) == list(document["registries"][0])


def test_a_report_replaces_the_last_one_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_account(path, b"new")
        assert reader.read() == b"old"

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["report.json"]  # noqa: PTH208 - hidden files count


def test_a_report_that_cannot_be_written_is_an_error_of_the_target(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be written"):
        write_account(tmp_path / "absent" / "report.json", b"")
    (tmp_path / "report.json").mkdir()
    with pytest.raises(TargetError, match="cannot be written"):
        write_account(tmp_path / "report.json", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_place_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    require_writable(tmp_path / "report.json")
    with pytest.raises(UsageError, match="does not exist"):
        require_writable(tmp_path / "absent" / "report.json")
    with pytest.raises(UsageError, match="is a directory"):
        require_writable(tmp_path)


def test_a_pipe_gets_the_report_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    require_writable(pipe)
    with pytest.raises(TargetError):
        write_account(pipe, b"nobody reads")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_account(pipe, b"{}\n")
        assert os.read(reader, 100) == b"{}\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_link_to_an_open_file_is_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        log.write(b"before\n")
        log.flush()
        (link := tmp_path / "stdout").symlink_to(f"/proc/self/fd/{log.fileno()}")
        require_writable(link)
        write_account(link, b"{}\n")
    assert link.is_symlink()
    assert (tmp_path / "log").read_bytes() == b"before\n{}\n"


def test_a_socket_is_no_file_for_a_report(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="is not a file to write"):
            require_writable(tmp_path / "socket")
