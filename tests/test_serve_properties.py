"""Properties of the parsers that read what clients send to serve."""

from __future__ import annotations

import string
from pathlib import PurePosixPath
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from syncer.oci import Digest
from syncer.serve.protocol import BlobAt, ManifestAt, Problem, Tags, UploadAt, parse_endpoint
from syncer.serve.reading import wanted_range

words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
separators = st.sampled_from(["", ".", "_", "__", "-", "---", "/"])
names = st.lists(st.tuples(separators, words), max_size=12).map(lambda parts: "a" + "".join(map("".join, parts)))
tags = st.text(string.ascii_letters + string.digits + "_.-", max_size=127).map("t".__add__)
digests = st.binary(max_size=20).map(Digest.of)
nasty = st.text(st.sampled_from([*string.ascii_lowercase[:3], "/", ".", "%", "2", "f", "0", "_", ":", "\\", "\0", "é"]))


@given(names, tags, digests)
def test_every_legal_name_is_understood(name: str, tag: str, digest: Digest) -> None:
    assert parse_endpoint(f"/v2/{name}/tags/list") == Tags(name)
    assert parse_endpoint(f"/v2/{name}/manifests/{tag}") == ManifestAt(name, tag)
    assert parse_endpoint(f"/v2/{name}/manifests/{quote(str(digest), safe='')}") == ManifestAt(name, digest)
    assert parse_endpoint(f"/v2/{name}/blobs/{digest}") == BlobAt(name, digest)
    assert parse_endpoint(f"/v2/{name}/blobs/uploads/{'a' * 32}") == UploadAt(name, "a" * 32)


@given(nasty, nasty)
def test_no_path_names_anything_outside(name: str, reference: str) -> None:
    """Whatever is understood is a name that stays below any directory that it is joined to."""
    for path in (
        f"/v2/{name}/manifests/{reference}",
        f"/v2/{name}/blobs/uploads/{reference}",
        f"/v2/{name}/tags/list",
        name,
    ):
        try:
            endpoint = parse_endpoint(path)
        except Problem as problem:
            assert problem.status in (400, 404)  # noqa: PT017  # either outcome is right
            continue
        for part in (getattr(endpoint, "repository", "a"), getattr(endpoint, "reference", "a")):
            joined = PurePosixPath("/root", str(part))
            assert ".." not in joined.parts
            assert joined.is_relative_to("/root")
            assert "\0" not in str(part)
            assert "\\" not in str(part)


@given(st.integers(1, 1000), st.integers(0, 2000), st.integers(0, 2000))
def test_a_range_is_what_a_slice_of_the_blob_would_be(size: int, first: int, last: int) -> None:
    blob = range(size)
    for header, expected in (
        (f"bytes={first}-{last}", blob[first : last + 1]),
        (f"bytes={first}-", blob[first:]),
        (f"bytes=-{last}", blob[max(0, size - last) :]),
    ):
        try:
            wanted = wanted_range([header], size)
        except Problem as problem:
            assert problem.status == 416  # noqa: PT017  # as an empty range must end
            assert not expected
        else:
            assert wanted == expected


@given(st.text(), st.integers(0, 1000))
def test_any_range_header_is_a_range_of_the_blob_or_ignored(header: str, size: int) -> None:
    try:
        wanted = wanted_range([header], size)
    except Problem:
        return
    assert wanted is None or (wanted and wanted.start >= 0 and wanted.stop <= size)
