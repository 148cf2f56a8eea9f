"""``syncer sync`` as a user does it: registry to registry, with the real command and real registries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.images import Image
from tests.support.registries import Registry


async def publish(registry: Registry, made: dict[str, Image]) -> list[str]:
    """Push each image under ``repository:tag``; returns the references."""
    for name, image in made.items():
        repository, _, tag = name.partition(":")
        await client.push(registry, repository, image, tag)
    return [f"{registry.address}/{name}" for name in made]


def write_file(home: Path, **document: Any) -> Path:
    path = home / "sync.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def landed(source: Registry, repository: str, base: str = "mirror") -> str:
    return f"{base}/{source.address.replace(':', '_')}/{repository}"


async def sync(home: Path, *options: str | Path, **environment: str) -> Ran:
    return await syncer("sync", *options, home=home, **environment)


async def test_images_named_by_flags_go_from_registry_to_registry(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    made = {"a:1": images.image("a"), "team/b:2": images.multi_platform("b", attested=True), "c:3": images.chart("c")}
    async with debian_registry("source") as source, debian_registry("target") as target:
        references = await publish(source, made)
        (tmp_path / "images.txt").write_text(f"{references[1]}\n{references[2]}  # the chart\n")

        ran = await sync(
            tmp_path, "--image", references[0], "--images-file", tmp_path / "images.txt",
            "--registry", f"{target.address}/mirror",
        )  # fmt: skip

        assert ran.code == 0, ran.stderr
        assert "Sync Summary" in ran.stdout
        assert "images:  3 (3 copied)" in ran.stdout
        for name, image in made.items():
            repository, _, tag = name.partition(":")
            await client.assert_holds(target, landed(source, repository), image, tag)


async def test_a_file_says_what_goes_where(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app = {f"app:1.{minor}.0": images.image(f"app{minor}") for minor in range(5)}
    several = images.multi_platform("several")
    async with (
        debian_registry("source") as source,
        debian_registry("office") as office,
        debian_registry("edge") as edge,
    ):
        await publish(source, {**app, "app:dev": images.image("dev"), "tool:1": several})
        file = write_file(
            tmp_path,
            sources=[
                {"repository": f"{source.address}/app", "tags": {"semver": ">=1.1", "newest": "2"}},
                {
                    "image": f"{source.address}/tool:1",
                    "targets": ["edge"],
                    "platforms": ["linux/arm64"],
                    "as": "tools/t",
                },
            ],
            targets=[
                {"registry": f"{office.address}/mirror", "name": "office"},
                {"registry": f"http://{edge.address}/base", "name": "edge", "map": {f"{source.address}/app": "apps"}},
            ],
        )

        ran = await sync(tmp_path, "-c", file, "--json")

        assert ran.code == 0, ran.stderr
        assert ran.json["totals"]["images_copied"] == 5
        assert await client.tags(office, landed(source, "app")) == ["1.3.0", "1.4.0"]
        assert await client.tags(edge, "base/apps") == ["1.3.0", "1.4.0"]
        await client.assert_holds(edge, "base/tools/t", several.children[1], "1")
        assert await client.repositories(office) == [landed(source, "app")]
