"""From a console to one file, to a registry, and back: the whole way of what Palette's users carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncer.cli import main
from syncer.cli.serve import open_storage
from syncer.serve import serve
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import ChartRepository, chart_archive, chart_repository, tar_gz
from tests.support.cli import syncer
from tests.support.images import Image, digest_of
from tests.support.palette import Palette, palette_server
from tests.support.registries import Registry
from tests.test_palette_commands import INFRA, UID, definition, pack, profile, signed_in

CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
PACKS = Path(__file__).parent / "data/packs"
WHOLE_PACKS = Path(__file__).parents[2] / "shared/data/packs"  # the same and more, where they are at hand


def fill(charts: ChartRepository) -> None:
    """A chart in the index, one behind a URL of its own, and a file that is no chart."""
    charts.add_chart("app", "1.2.3")
    charts.add_chart("layer", "4.0.0")
    charts.index()
    charts.files["direct/tool-2.0.0.tgz"] = chart_archive("tool", "2.0.0")
    charts.files["installers/v24.tar.gz"] = tar_gz({"installer/run.sh": "true"})


def console(palette: Palette, source: Registry, charts: ChartRepository) -> None:
    """An infrastructure profile whose image is composed of macros, and an add-on with charts of each kind."""
    values = "\n".join(
        [
            "pack:",
            "  content:",
            "    images:",
            "      - image: {{.spectro.pack.edge-native-byoi.options.system.uri}}",
            "options:",
            f'  system.uri: "{source.address}/os:{{{{ .spectro.system.kubernetes.version }}}}"',
        ]
    )
    byoi = {"name": "edge-native-byoi", "type": "spectro", "layer": "os", "version": "2.1.0", "values": values}
    palette.profiles[INFRA] = profile(byoi, pack("k8s", layer="k8s", version="1.33.5"), uid=INFRA, kind="infra")
    listed = [
        {"repo": f"{charts.url}/", "name": "app", "version": "1.2.x"},
        {"repo": f"{charts.url}/direct/tool-2.0.0.tgz", "name": "tool", "version": "2.0.0"},
        {"repo": f"{charts.url}/installers/v24.tar.gz", "name": "installer", "version": "24.0"},
        {"repo": f"oci://{source.address}/charts", "name": "stored", "version": "0.1.0"},
    ]
    helm = {"name": "layer", "type": "helm", "layer": "addon", "version": "4.0.0", "values": ""}
    helm["registry"] = {"metadata": {"uid": "helm1", "name": "Charts", "kind": "helm"}}  # type: ignore[assignment]
    palette.helm_registries["helm1"] = str(charts.url)
    palette.profiles[UID] = profile(pack("addon", f"{source.address}/team/app:1", charts=listed), helm)


async def test_everything_of_a_profile_goes_to_a_registry_and_comes_back(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    app, os_image, stored = images.multi_platform("app", attested=True), images.image("os"), images.chart("stored")
    tag, signature = images.cosign_signature(app)
    local = tmp_path / "local-1.0.0.tar.gz"
    local.write_bytes(tar_gz({"local/pack.json": '{"name": "local", "version": "1.0.0"}', "local/values.yaml": ""}))
    bundle = tmp_path / "out/edge.tar.zst"
    async with debian_registry("source") as source, chart_repository() as charts, palette_server() as palette:
        fill(charts)
        console(palette, source, charts)
        for name, image in {"team/app:1": app, f"team/app:{tag}": signature, "os:1.33.5": os_image}.items():
            await client.push(source, name.partition(":")[0], image, name.partition(":")[2])
        await client.push(source, "charts/stored", stored, "0.1.0")
        build = (
            "content", "build", "--profiles", f"{INFRA},{UID}", "--packs", local, "--cluster-definition-name", "store",
            "--cluster-definition-profile-ids", INFRA, "--name", "edge", "--output", tmp_path / "out", "--force",
        )  # fmt: skip
        built = await syncer(*build, home=tmp_path, **signed_in(palette))
        first = bundle.read_bytes()
        rebuilt = await syncer(*build, home=tmp_path, **signed_in(palette))

    assert (built.code, rebuilt.code) == (0, 0), built.stdout + built.stderr
    assert bundle.read_bytes() == first
    async with debian_registry("target") as target:
        base = f"{target.address}/base"
        pushed = await syncer("content", "push", "-f", bundle, "-r", base, home=tmp_path)
        verified = await syncer("verify", "-f", bundle, "-r", base, home=tmp_path)
        listed = await syncer("content", "list", "--repo", f"{base}/bundle-definition", home=tmp_path)
        saved = await syncer("content", "save", "-s", listed.stdout.strip(), "-o", tmp_path / "back", home=tmp_path)

        assert [ran.code for ran in (pushed, verified, listed, saved)] == [0] * 4, pushed.stderr + saved.stderr
        assert (tmp_path / "back/edge.tar.zst").read_bytes() == first
        at_source = f"base/{source.address.replace(':', '_')}"
        for place, image, name in [
            (f"{at_source}/team/app", app, "1"),
            (f"{at_source}/team/app", signature, tag),
            (f"{at_source}/os", os_image, "1.33.5"),
            (f"{at_source}/charts/stored", stored, "0.1.0"),
        ]:
            await client.assert_holds(target, place, image, name)
        await assert_charts(target, charts, f"base/{charts.url.host}_{charts.url.port}")
        archive = await layer(target, "base/spectro-packs/archive/local", "1.0.0")
        assert archive == ("application/vnd.oci.image.layer.v1.tar", local.read_bytes())
    found = definition(bundle)
    assert [len(found[kind]) for kind in ("profiles", "images", "charts", "archives", "files")] == [3, 2, 5, 1, 1]
    assert found["images"][0]["packs"] == ["edge-native-byoi 2.1.0"]


async def assert_charts(target: Registry, charts: ChartRepository, base: str) -> None:
    """Each chart is where ``helm pull oci://…`` looks for it, its archive unchanged; the file is a plain artifact."""
    for name, version, path in [
        ("app", "1.2.3", "charts/app-1.2.3.tgz"),
        ("layer", "4.0.0", "charts/layer-4.0.0.tgz"),
        ("direct/tool", "2.0.0", "direct/tool-2.0.0.tgz"),
    ]:
        assert await layer(target, f"{base}/{name}", version) == (CHART, charts.files[path])
    _, content = await layer(target, f"{base}/installers/v24.tar.gz", "24.0")
    assert content == charts.files["installers/v24.tar.gz"]


async def layer(registry: Registry, repository: str, tag: str) -> tuple[str, bytes]:
    """Type and content of the one layer of an artifact."""
    answer = await client.manifest(registry, repository, tag)
    assert answer.status == 200, f"{repository}:{tag}: {answer.status}"
    (descriptor,) = client.parsed(answer)["layers"]
    content = (await client.blob(registry, repository, descriptor["digest"])).content
    assert digest_of(content) == descriptor["digest"]
    return descriptor["mediaType"], content


async def test_a_bundle_that_is_served_is_the_registry_that_a_push_would_make(tmp_path: Path) -> None:
    archive = tmp_path / "local-1.0.0.tar.gz"
    archive.write_bytes(tar_gz({"l/pack.json": '{"name": "local", "version": "1.0.0"}', "l/values.yaml": ""}))
    bundle = tmp_path / "edge.tar.zst"
    built = await syncer("build", "--packs", archive, "--name", "edge", "--output", tmp_path, home=tmp_path)
    async with open_storage(bundle, None) as storage, serve(storage) as address:
        listed = await syncer("list", "-r", f"{address}/bundle-definition", home=tmp_path)
        saved = await syncer("save", "-s", listed.stdout.strip(), "-o", tmp_path / "back", home=tmp_path)
        held = await layer(Registry(str(address), tmp_path), "spectro-packs/archive/local", "1.0.0")

    assert (built.code, listed.code, saved.code) == (0, 0, 0), saved.stderr
    assert listed.stdout == f"{address}/bundle-definition:edge\n"
    assert (tmp_path / "back/edge.tar.zst").read_bytes() == bundle.read_bytes()
    assert held[1] == archive.read_bytes()


async def test_a_push_that_found_everything_asks_for_the_definition_once(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    made: dict[str, Image] = {"a": images.image("a"), "b": images.image("b")}
    async with debian_registry("source") as source, debian_registry("target") as target:
        for name, image in made.items():
            await client.push(source, name, image, "1")
        named = [f"--image={source.address}/{name}:1" for name in made]
        await syncer("build", *named, "--output", tmp_path, home=tmp_path)
        push = ("push", "-f", tmp_path / "bundle.tar.zst", "-r", target.address, "--json")
        first = await syncer(*push, home=tmp_path)
        again = await syncer(*push, home=tmp_path)

    assert first.json["totals"]["images"] == again.json["totals"]["images"] == len(made)
    assert again.json["totals"]["requests"] == len(made) + 1


def expected(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / "expected.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def assert_lists(
    path: Path,
    wanted: Mapping[str, Any],
    capsys: pytest.CaptureFixture[str],
    home: Path,
    *options: str,
    warnings: list[str],
) -> None:
    """A build of the pack at ``path`` would take what ``wanted`` says, and warns of it."""
    out = home / "out"
    code = main(["build", "--metadata-only", "--force", "--profile-file", str(path), "--output", str(out), *options])
    assert code == 0
    found = yaml.safe_load((out / "bundle-definition.yaml").read_text())
    assert [image["image"] for image in found.get("images", [])] == wanted.get("images_normalized", wanted["images"])
    charts = [{key: chart.get(key, "") for key in ("name", "repo", "version")} for chart in found.get("charts", [])]
    assert charts == [{key: chart.get(key) or "" for key in ("name", "repo", "version")} for chart in wanted["charts"]]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ") and "NOT" not in line]
    for line, part in zip(told, warnings, strict=True):
        assert part in line


@pytest.mark.parametrize("name", expected(PACKS))
def test_a_build_takes_of_a_published_pack_what_it_lists(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = expected(PACKS)[name]

    assert_lists(PACKS / name, wanted, capsys, tmp_path, warnings=wanted["warnings"])


@pytest.mark.skipif(not WHOLE_PACKS.is_dir(), reason="the whole packs are not part of the project")
def test_a_build_takes_of_whole_packs_and_documents_what_they_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted in expected(WHOLE_PACKS).items():
        assert_lists(WHOLE_PACKS / name, wanted, capsys, tmp_path, warnings=wanted["warnings"])
    for name, wanted in expected(WHOLE_PACKS / "_docs").items():
        given = [f"--set-var={key}={value}" for key, value in wanted["context"].items()]
        warnings = ['"content" stands beside "pack"'] if "must_warn" in wanted else []
        assert_lists(WHOLE_PACKS / "_docs" / name, wanted, capsys, tmp_path, *given, warnings=warnings)
