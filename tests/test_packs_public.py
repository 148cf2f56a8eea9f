"""Packs as they are published, each with what it lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncer.profiles.palette.profile_definition import ProfileDefinition, define_profiles
from syncer.profiles.palette.profile_files import read_profile_file

_PACKS = Path(__file__).parent / "data" / "packs"
_WHOLE_PACKS = Path(__file__).parents[2] / "shared" / "data" / "packs"  # the same and more, where they are at hand


def _expected(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / "expected.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _check(gathered: ProfileDefinition, expected: dict[str, Any]) -> None:
    definition = gathered.definition
    assert [str(image.image) for image in definition.images] == expected.get("images_normalized", expected["images"])
    charts = [{"name": chart.name, "repo": chart.repo, "version": chart.version} for chart in definition.charts]
    assert charts == expected["charts"]
    assert len(gathered.warnings) == len(expected["warnings"])
    for warning, part in zip(gathered.warnings, expected["warnings"], strict=True):
        assert part in warning


@pytest.mark.parametrize("name", _expected(_PACKS))
def test_a_published_pack_lists_what_it_lists(name: str) -> None:
    _check(define_profiles("bundle", [read_profile_file(_PACKS / name)]), _expected(_PACKS)[name])


@pytest.mark.parametrize("name", _expected(_PACKS))
def test_its_values_alone_list_the_same(name: str) -> None:
    _check(define_profiles("bundle", [read_profile_file(_PACKS / name / "values.yaml")]), _expected(_PACKS)[name])


@pytest.mark.skipif(not _WHOLE_PACKS.is_dir(), reason="the whole packs are not part of the project")
def test_whole_packs_list_the_same_as_their_parts() -> None:
    for name, expected in _expected(_WHOLE_PACKS).items():
        _check(define_profiles("bundle", [read_profile_file(_WHOLE_PACKS / name)]), expected)


@pytest.mark.skipif(not _WHOLE_PACKS.is_dir(), reason="the snippets are not part of the project")
def test_snippets_of_the_documentation_list_what_they_mean() -> None:
    for name, expected in _expected(_WHOLE_PACKS / "_docs").items():
        profile = read_profile_file(_WHOLE_PACKS / "_docs" / name)

        gathered = define_profiles("bundle", [profile], overrides=expected["context"])

        must_warn = ['"content" stands beside "pack"'] if "must_warn" in expected else []
        _check(gathered, {**expected, "warnings": must_warn})
