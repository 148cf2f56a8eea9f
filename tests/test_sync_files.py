"""Files of web servers are mirrored as artifacts, whatever is in them."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import OpenRegistry
from tests.support import client
from tests.support.chart_repository import chart_archive, chart_repository
from tests.support.cli import syncer
from tests.support.images import digest_of

FILE = "application/vnd.syncer.file.v1"


async def test_the_files_of_a_hauler_manifest_are_mirrored(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    script, chart = b"#!/bin/sh\n", chart_archive("app", "1.0.0")
    async with chart_repository() as server, debian_registry("target") as target:
        server.files = {"get/install.sh": script, "charts/app-1.0.0.tgz": chart}
        text = f"""\
apiVersion: content.hauler.cattle.io/v1
kind: Files
spec:
  files:
    - path: {server.url}/get/install.sh
    - path: {server.url}/charts/app-1.0.0.tgz
      name: App.tgz
    - path: {server.url}/gone.iso
"""
        (tmp_path / "hauler.yaml").write_text(text)
        imported = await syncer("import", tmp_path / "hauler.yaml", "-r", f"{target.address}/m", home=tmp_path)
        (tmp_path / "sync.yaml").write_text(imported.stdout)

        ran = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path)

        assert imported.code == 0, imported.stderr
        assert ran.code == 4  # one is gone
        assert "gone.iso: 404" in ran.stderr
        place = f"m/{server.url.host}_{server.url.port}"
        for name, title, content in [
            ("get/install.sh", "install.sh", script),
            ("charts/app.tgz", "App.tgz", chart),
        ]:
            manifest = client.parsed(await client.manifest(target, f"{place}/{name}", "latest"))
            assert manifest["artifactType"] == FILE
            (layer,) = manifest["layers"]
            assert layer["annotations"] == {"org.opencontainers.image.title": title}
            assert layer["digest"] == digest_of(content)
            assert (await client.blob(target, f"{place}/{name}", layer["digest"])).content == content


async def test_a_wrong_address_of_a_file_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "sync.yaml").write_text(
        "sources:\n- file:\n    url: ftp://example.com/x\ntargets: [{registry: t.example.com}]\n"
    )

    ran = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path)

    assert ran.code == 2
    assert "sync.yaml:3: sources[0].file.url: it is not the address of a file" in ran.stderr
