"""A chart of a sync file comes with the images that its templates name, when that is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import ChartRepository, chart_repository, tar_gz
from tests.support.cli import Ran, syncer
from tests.support.programs import run
from tests.support.registries import Registry

TEMPLATE = """\
kind: Pod
spec:
  containers:
    - image: {{ .Values.registry }}/app:{{ .Values.tag }}
{{- if .Values.extra }}
    - image: "{{ .Values.registry }}/extra:1"
{{- end }}
{{- if .Values.never }}
    - image: {{ .Values.registry }}/never:1
{{- end }}
"""


def add_chart(repository: ChartRepository, source: Registry, template: str = TEMPLATE) -> None:
    values = f"registry: {source.address}\ntag: default\nother: {{image: {source.address}/never:1}}\n"
    repository.files["charts/app-1.0.0.tgz"] = tar_gz(
        {
            "app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\n",
            "app/values.yaml": values,
            "app/templates/pod.yaml": template,
        }
    )
    repository.index()


async def synced(tmp_path: Path, chart: str, target: Registry, *flags: str) -> Ran:
    (tmp_path / "sync.yaml").write_text(
        f"sources:\n- chart: {chart}\n  referrers: false\ntargets: [{{registry: {target.address}/m}}]\n"
    )
    return await syncer("sync", "-c", tmp_path / "sync.yaml", *flags, home=tmp_path)


async def test_the_images_of_a_chart_come_along(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        chart_repository() as repository,
        debian_registry("source") as source,
        debian_registry("target") as target,
    ):
        for name, tag in (("app", "default"), ("app", "2"), ("extra", "1"), ("never", "1")):
            await client.push(source, name, images.image(f"{name}{tag}"), tag)
        add_chart(repository, source)
        (tmp_path / "one.yaml").write_text("tag: '1'\nextra: true\n")
        (tmp_path / "two.yaml").write_text("tag: '2'\n")
        chart = f"{{repository: '{repository.url}', name: app, scan: true, values_files: [one.yaml, two.yaml]}}"

        ran = await synced(tmp_path, chart, target)

        assert ran.code == 0, ran.stderr
        place = f"m/{source.address.replace(':', '_')}"
        await client.assert_holds(target, f"{place}/app", images.image("app2"), "2")
        await client.assert_holds(target, f"{place}/extra", images.image("extra1"), "1")
        found = await client.repositories(target)
        assert sorted(found) == sorted(
            [f"{place}/app", f"{place}/extra", f"m/{repository.url.host}_{repository.url.port}/app"]
        )


async def test_an_image_that_no_registry_has_is_told_and_nothing_is_pruned_for_it(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with (
        chart_repository() as repository,
        debian_registry("source") as source,
        debian_registry("target") as target,
    ):
        add_chart(repository, source)
        await client.push(target, "m/kept", images.image("kept"), "1")

        ran = await synced(
            tmp_path, f"{{repository: '{repository.url}', name: app, scan: true}}", target, "--prune", "--yes"
        )

        assert "1 images that were only guessed are left out" in ran.stderr
        assert await client.tags(target, "m/kept") == ["1"]


async def test_a_template_that_cannot_be_rendered_is_told(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        chart_repository() as repository,
        debian_registry("source") as source,
        debian_registry("target") as target,
    ):
        await client.push(source, "app", images.image("app"), "default")
        add_chart(repository, source, "{{ if }}\n")

        ran = await synced(tmp_path, f"{{repository: '{repository.url}', name: app, scan: true}}", target)

        assert ran.code == 0, ran.stderr
        assert "sync.yaml:2: chart app: app/templates/pod.yaml is no template" in ran.stderr


async def test_values_without_a_scan_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "sync.yaml").write_text(
        "sources:\n- chart: {repository: 'https://c.example.com', name: a, values_files: v.yaml}\n"
        "targets: [{registry: t.example.com}]\n"
    )

    ran = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path)

    assert (ran.code, "`values_files` are for a `scan` of the chart's images" in ran.stderr) == (2, True)


async def test_the_images_of_a_chart_are_those_that_hauler_takes(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with (
        chart_repository() as repository,
        debian_registry("source") as source,
        debian_registry("target") as target,
    ):
        for name, tag in (("app", "2"), ("extra", "1"), ("never", "1")):
            await client.push(source, name, images.image(f"{name}{tag}"), tag)
        add_chart(repository, source)
        (tmp_path / "values.yaml").write_text("tag: '2'\nextra: true\n")
        text = f"""\
apiVersion: content.hauler.cattle.io/v1
kind: Charts
spec:
  charts:
    - name: app
      repoURL: {repository.url}
      version: 1.0.0
      add-images: true
      valuesFiles: [values.yaml]
"""
        (tmp_path / "hauler.yaml").write_text(text)
        theirs = ["app:2", "extra:1"]
        if shutil.which("hauler"):
            store, home = str(tmp_path / "store"), {"HAULER_DIR": str(tmp_path / "hauler")}
            done = await run("hauler", "store", "sync", "-f", str(tmp_path / "hauler.yaml"), "--store", store, **home)
            assert done.code == 0, done.stdout + done.stderr
            told = await run("hauler", "store", "info", "-o", "json", "--store", store, **home)
            stored = [row["reference"] for row in json.loads(told.stdout)["artifacts"] if row["type"] == "image"]
            assert sorted(name.removeprefix(f"{source.address}/") for name in stored) == theirs

        imported = await syncer("import", tmp_path / "hauler.yaml", "-r", f"{target.address}/m", home=tmp_path)
        (tmp_path / "sync.yaml").write_text(imported.stdout)
        ran = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path)

        assert (imported.code, ran.code) == (0, 0), imported.stderr + ran.stderr
        place = f"m/{source.address.replace(':', '_')}/"
        ours = [name for name in await client.repositories(target) if name.startswith(place)]
        assert [
            f"{name.removeprefix(place)}:{tag}" for name in ours for tag in await client.tags(target, name)
        ] == theirs
