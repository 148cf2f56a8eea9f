from __future__ import annotations

from pathlib import Path

import pytest

from syncer.errors import InvalidFile
from syncer.formats.text import parse_images, read_images_file


def _write(folder: Path, content: bytes | str) -> Path:
    path = folder / "images.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_each_line_is_an_image_and_keeps_its_place(tmp_path: Path) -> None:
    path = _write(
        tmp_path, "busybox\n\n# tools\nquay.io/a/b:v1  # the one we use\ndocker://ghcr.io/c/d@sha256:" + "0" * 64
    )

    images = read_images_file(path)

    assert [(str(image.reference), image.line) for image in images] == [
        ("docker.io/library/busybox:latest", 1),
        ("quay.io/a/b:v1", 4),
        ("ghcr.io/c/d@sha256:" + "0" * 64, 5),
    ]


def test_windows_line_ends_and_a_byte_order_mark_are_tolerated(tmp_path: Path) -> None:
    path = _write(tmp_path, b"\xef\xbb\xbfbusybox:1\r\nalpine:3\r\n")

    assert [str(image.reference) for image in read_images_file(path)] == [
        "docker.io/library/busybox:1",
        "docker.io/library/alpine:3",
    ]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_what_powershell_writes_is_read(encoding: str, tmp_path: Path) -> None:
    """``"busybox" > images.txt`` there makes UTF-16 with a byte order mark."""
    path = tmp_path / "images.txt"
    path.write_bytes("\ufeff# Größe\r\nbusybox\r\nquay.io/a/b:1\r\n".encode(encoding))

    assert [str(image.reference) for image in read_images_file(path)] == [
        "docker.io/library/busybox:latest",
        "quay.io/a/b:1",
    ]


def test_utf_16_that_ends_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_bytes("\ufeffbusybox\n".encode("utf-16-le")[:-1])

    with pytest.raises(InvalidFile, match="not a text file in UTF-16"):
        read_images_file(path)


def test_an_empty_list_names_nothing(tmp_path: Path) -> None:
    assert read_images_file(_write(tmp_path, "# nothing yet\n")) == []


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        ("busybox\nQuay.io/A/b", 2, "lower case"),
        ("busybox\n\nalpine nginx", 3, "more than one word"),
        ("- image: busybox", 1, "more than one word"),
        (b"busybox\n\xff\xfe", 2, "UTF-8"),
        (b"busy\0box", 1, "zero byte"),
    ],
)
def test_what_is_no_image_is_named_with_its_line(tmp_path: Path, content: bytes | str, line: int, problem: str) -> None:
    path = _write(tmp_path, content)

    with pytest.raises(InvalidFile, match=problem) as caught:
        read_images_file(path)

    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_a_file_that_is_not_there_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_images_file(tmp_path / "absent.txt")


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="it is a directory, where a file is wanted"):
        read_images_file(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: busybox}]}\n",
        "services:\n  web:\n    image: busybox\n",
        "---\n- busybox\n- nginx\n",
        '{"images":\n["busybox"]}',
    ],
)
def test_yaml_is_told_as_what_it_is_and_not_line_by_line(text: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_images(text, "images.txt")

    assert str(caught.value) == "images.txt: it is YAML, and no list of images"
    assert "--profile-file" in str(caught.value.hint)
    assert caught.value.more == ()


@pytest.mark.parametrize("text", ["busybox:\nnginx:\n", "busybox\nkind: Pod\n", "a b\nc d\n"])
def test_a_list_with_mistakes_is_a_list(text: str) -> None:
    with pytest.raises(InvalidFile, match=r"images\.txt:[12]: "):
        parse_images(text, "images.txt")


def test_a_line_of_any_length_is_told_in_a_short_sentence() -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_images("A" * 100_000, "images.txt")

    assert len(str(caught.value)) < 400
