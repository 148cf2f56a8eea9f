import io
import json
import logging
from typing import Any

import pytest

from syncer.content import Item
from syncer.errors import Denied
from syncer.log import LogFormat, log_events, open_log
from syncer.oci import Descriptor, Digest, Reference
from syncer.transfer.events import Copied, ImageCopied, ImageFailed

LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(b"layer"), 200)
ALPHA = Item(Reference.parse("quay.io/alpha:1"), Reference.parse("t.io/alpha:1"))


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_event_is_one_line_of_json_with_the_runs_id() -> None:
    stream = io.StringIO()
    emit = log_events(open_log(stream, run_id="r1", format=LogFormat.JSON))
    emit(ImageCopied(ALPHA, LAYER))
    emit(Copied(LAYER, "alpha", 0.5))
    emit(ImageFailed(ALPHA, Denied("GET quay.io/v2/\n", 401)))

    copied, failed = lines(stream)
    assert copied.pop("timestamp").endswith("Z")
    assert copied == {
        "event": "image_copied",
        "level": "info",
        "run_id": "r1",
        "source": "quay.io/alpha:1",
        "target": "t.io/alpha:1",
        "digest": str(LAYER.digest),
    }
    assert (failed["level"], failed["reason"], failed["run_id"]) == ("error", "denied", "r1")


def test_blobs_are_told_of_on_request() -> None:
    stream = io.StringIO()
    log_events(open_log(stream, run_id="r1", format=LogFormat.JSON, level=logging.DEBUG))(Copied(LAYER, "alpha", 0.5))
    (line,) = lines(stream)
    assert (line["event"], line["bytes"], line["seconds"]) == ("blob_copied", 200, 0.5)


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    open_log(stream, run_id="r1").warning("the file is old", path="a\x1b[2Jb")
    (line,) = stream.getvalue().splitlines()
    assert "the file is old" in line
    assert "run_id=r1" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "Authorization: Bearer hunter2hunter2"},
        {"message": "sent Basic aHVudGVyMjpodW50ZXIy= to it"},
        {"url": "https://me:hunter2@t.io/v2/"},
        {"url": "see https://t.io/blob?X-Amz-Signature=hunter2&x=1 for it"},
        {"password": "hunter2"},
        {"headers": {"Cookie": "hunter2", "x": ["Bearer hunter2hunter2"]}},
        {"note": "the secret is s3cret!"},
        {"error": ValueError("s3cret!")},
    ],
)
def test_nothing_secret_reaches_a_line(fields: dict[str, Any]) -> None:
    stream = io.StringIO()
    open_log(stream, run_id="r1", format=LogFormat.JSON, secrets=["s3cret!"]).info("event", **fields)

    text = stream.getvalue()
    assert "hunter2" not in text
    assert "aHVudGVyM" not in text
    assert "s3cret!" not in text
    assert "[hidden]" in text


def test_a_traceback_is_cleaned_too() -> None:
    stream = io.StringIO()
    logger = open_log(stream, run_id="r1", format=LogFormat.JSON, secrets=["s3cret!"])
    try:
        int("s3cret!")
    except ValueError:
        logger.exception("bug")
    assert "s3cret!" not in stream.getvalue()
    assert "Traceback" in stream.getvalue()
