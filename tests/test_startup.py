"""What a command line costs before it does anything: only what the command needs is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from syncer import build
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer

PUSH = "push -f missing -r localhost:1"
BUILD = "build --images-file missing"
VERIFY = "verify --file missing"
SYNC = "sync --images-file missing -r localhost:1"

_SLOW = {
    "yaml",
    "rich",
    "cryptography",
    "bcrypt",
    "prometheus_client",
    "structlog",
    "tarfile",
    "aiohttp",
    "distributed",
    "email",
    "zoneinfo",
}
_OF_BUNDLES = {
    "backports",
    *(f"syncer.{module}" for module in ("api.bundles", "api.push", "bundle.reader", "bundle.writer", "bundle.slots")),
}
_OF_BUILDS = {"syncer.api.build", "syncer.bundle.writer", "syncer.bundle.partial", "syncer.bundle.journal"}
_OF_PROFILES = {
    f"syncer.{module}"
    for module in (
        *("api.palette", "api.prune", "api.charts", "cli.live", "cli.palette", "serve"),
        *(
            "profiles.charts",
            "profiles.palette.profile_definition",
            "profiles.palette.packs",
            "profiles.palette.palette_api",
        ),
    )
}
_PROGRAM = "import sys; from syncer.cli import main; main(sys.argv[1:]); print(*sys.modules, sep='\\n')"


def imported_by(*words: str, home: Path) -> set[str]:
    """All that is imported when a run of the command with these words is over."""
    command = [sys.executable, "-c", _PROGRAM, *words]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment(home), cwd=home)
    return set(ran.stdout.splitlines())


@pytest.mark.parametrize("before", [[], ["content"]])
def test_other_commands_are_not_imported(before: list[str], tmp_path: Path) -> None:
    imported = imported_by(*before, *PUSH.split(), home=tmp_path)

    assert "syncer.cli.push" in imported
    assert imported.isdisjoint({"syncer.cli.build", "syncer.cli.sync", "syncer.cli.edge", "syncer.cli.serve"})


@pytest.mark.parametrize("words", [PUSH, BUILD, VERIFY])
def test_images_need_nothing_that_is_slow_to_import(words: str, tmp_path: Path) -> None:
    imported = imported_by(*words.split(), home=tmp_path)

    assert "syncer.registry" in imported
    assert imported.isdisjoint({*_SLOW, *_OF_PROFILES})


@pytest.mark.parametrize("words", [PUSH, VERIFY])
def test_what_reads_a_bundle_needs_nothing_that_writes_one(words: str, tmp_path: Path) -> None:
    imported = imported_by(*words.split(), home=tmp_path)

    assert "syncer.bundle.reader" in imported
    assert imported.isdisjoint(_OF_BUILDS)


async def test_a_definition_that_nobody_edited_needs_no_yaml(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """A push reads one at its end."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.multi_platform("a"), "1")
        built = await build([f"{registry.address}/app:1"], name="edge", output=tmp_path)

    imported = imported_by("definition", str(built.path), home=tmp_path)

    assert "kind: BundleDefinition" in imported
    assert imported.isdisjoint(_SLOW)


async def test_work_that_is_done_needs_no_more_than_work_that_fails(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """What is imported on the way, for a summary or a state, counts as well."""
    async with debian_registry() as registry:
        await client.push(registry, "app", images.multi_platform("a"), "1")
        image, target = f"{registry.address}/app:1", f"{registry.address}/to"
        built = await build([image], name="edge", output=tmp_path)
        for words in (("push", str(built.path), target), ("sync", "--image", image, "-r", f"{target}/sync")):
            for _ in ("something to do", "nothing to do"):
                imported = imported_by(*words, home=tmp_path)

                assert "syncer.transport.loop" in imported
                assert imported.isdisjoint({*_SLOW, *_OF_PROFILES})


def test_a_sync_of_images_needs_nothing_that_is_for_charts_and_profiles(tmp_path: Path) -> None:
    imported = imported_by(*SYNC.split(), home=tmp_path)

    assert "syncer.api.sync" in imported
    assert imported.isdisjoint({*_SLOW, *_OF_PROFILES, *_OF_BUNDLES, "syncer.profiles.imports"})


def test_a_sync_file_needs_yaml_beside_that(tmp_path: Path) -> None:
    (tmp_path / "sync.yaml").write_text("sources: [{image: localhost:1/a}]\ntargets: [{registry: localhost:1/b}]\n")

    imported = imported_by("sync", "-c", "sync.yaml", home=tmp_path)

    assert "yaml" in imported
    assert "syncer.transport.loop" in imported
    assert imported.isdisjoint({*_SLOW - {"yaml"}, *_OF_PROFILES, *_OF_BUNDLES, "syncer.profiles.imports"})


@pytest.mark.parametrize("words", ["logout", "registry-logout --registry a.io", "plan --profile-file missing -r a.io"])
def test_only_what_asks_palette_needs_the_client_for_it(words: str, tmp_path: Path) -> None:
    imported = imported_by(*words.split(), home=tmp_path)

    assert "syncer.api.palette" in imported
    assert "aiohttp" not in imported


def test_the_list_of_commands_imports_none_of_them(tmp_path: Path) -> None:
    imported = imported_by("--help", home=tmp_path)

    assert "click" in imported
    assert not {name for name in imported if name.startswith(("syncer.api", "syncer.cli.push", "syncer.registry"))}


def test_the_version_needs_no_parser(tmp_path: Path) -> None:
    assert imported_by("version", home=tmp_path).isdisjoint({*_SLOW, "click", "anyio"})


@pytest.mark.parametrize("place", [[], ["content"]])
async def test_a_mistyped_command_is_told_which_one_is_near(place: list[str], tmp_path: Path) -> None:
    ran = await syncer(*place, "pussh", home=tmp_path)

    assert ran.code == 2
    assert ran.stderr.count("did you mean push?") == 1
