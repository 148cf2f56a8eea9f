"""What Palette's users do: profiles, from a console or from files, become a bundle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.chart_repository import chart_repository, tar_gz
from tests.support.cli import Ran, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply
from tests.support.palette import KEY, Palette, palette_server
from tests.support.programs import needs
from tests.support.registries import LOGIN

UID = "66b1f0c2a1b2c3d4e5f60718"
OTHER = "66b1f0c2a1b2c3d4e5f60719"
INFRA = "66b1f0c2a1b2c3d4e5f6071a"
UNUSED = "127.0.0.1:9"  # the discard port: nothing listens


def profile(*packs: dict[str, Any], uid: str = UID, kind: str = "add-on", **spec: Any) -> dict[str, Any]:
    template = {"type": kind, "cloudType": "all", "packs": list(packs)}
    return {
        "metadata": {"name": f"edge-{uid[-2:]}", "uid": uid},
        "spec": {"version": "1.0.0", "template": template, **spec},
    }


def pack(name: str, *listed: str, charts: list[dict[str, str]] | None = None, **fields: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"images": [{"image": image} for image in listed]}
    if charts:
        content["charts"] = charts
    values = yaml.safe_dump({"pack": {"content": content}})
    return {"name": name, "type": "spectro", "layer": "addon", "version": "1.0.0", "values": values, **fields}


def signed_in(palette: Palette) -> dict[str, str]:
    return {"SYNCER_API_KEY": KEY, "SYNCER_CONSOLE_URL": str(palette.url), "SYNCER_PROJECT_ID": "project-1"}


def written(home: Path, name: str, document: Any) -> Path:
    path = home / name
    path.write_text(json.dumps(document))
    return path


def definition(path: Path) -> Any:
    """The definition that travels in a bundle."""
    ran = subprocess.run([needs("tar"), "-xOf", path, "bundle-definition.yaml"], check=True, capture_output=True)
    return yaml.safe_load(ran.stdout)


async def metadata(home: Path, *options: str | Path, **environment: str) -> tuple[Ran, Any]:
    """What ``--metadata-only`` finds, as JSON."""
    ran = await syncer(
        "build", "--metadata-only", "--force", "--json", *options, "--output", home / "out", home=home, **environment
    )
    return ran, json.loads(ran.stdout) if ran.code == 0 else None


def listed(document: Any) -> list[str]:
    return [entry["image"] for entry in document.get("images", [])]


def error(ran: Ran) -> str:
    lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ran.stderr
    return lines[0]


async def test_profiles_of_a_console_become_a_bundle(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    app, os_image = images.multi_platform("app"), images.image("os")
    async with debian_registry() as source, palette_server() as palette:
        await client.push(source, "team/app", app, "1")
        await client.push(source, "os", os_image, "v1")
        name = f"{source.address}/os:v1"
        palette.profiles[UID] = profile(pack("a", f"{source.address}/team/app:1"))
        palette.profiles[INFRA] = profile(
            pack("byoi", "{{.spectro.var.image}}", layer="os"),
            uid=INFRA, kind="infra", variables=[{"name": "image", "defaultValue": name}],
        )  # fmt: skip

        built = await syncer(
            "content", "build", "--profiles", f"{UID},{INFRA}", "--progress=false", "--output", tmp_path / "out",
            home=tmp_path, **signed_in(palette),
        )  # fmt: skip

    bundle = tmp_path / "out/bundle-project-1.tar.zst"
    assert built.code == 0, built.stderr
    assert f"bundle bundle-project-1 saved to {bundle}" in built.stdout
    assert "service images are not included" in built.stderr
    found = definition(bundle)
    assert [(image["image"], image["digest"], image["packs"]) for image in found["images"]] == [
        (f"{source.address}/team/app:1", app.digest, ["a 1.0.0"]),
        (name, os_image.digest, ["byoi 1.0.0"]),
    ]
    assert [(each["name"], each["uid"]) for each in found["profiles"]] == [("edge-18", UID), ("edge-1a", INFRA)]


async def test_a_login_that_was_kept_serves_builds_and_its_key_is_never_told(tmp_path: Path) -> None:
    passphrase = "Correct-h0rse"
    async with palette_server(profiles={UID: profile(pack("a", "quay.io/a/b:1"))}) as palette:
        login = await syncer(
            "login", "--api-key", KEY, "--console-url", str(palette.url), "--project", "Default", "-k", passphrase,
            home=tmp_path,
        )  # fmt: skip
        sealed, _ = await metadata(tmp_path, "--profiles", UID)
        opened, document = await metadata(tmp_path, "--profiles", UID, "-k", passphrase, "--log-format", "json")
        by_environment, _ = await metadata(tmp_path, "--profiles", UID, PALETTE_ENCRYPTION_PASSWORD=passphrase)

    assert (login.code, sealed.code, opened.code, by_environment.code) == (0, 2, 0, 0), opened.stderr
    assert "encrypted under a passphrase" in error(sealed)
    assert document["name"] == "bundle-project-1"
    assert listed(document) == ["quay.io/a/b:1"]
    assert KEY not in opened.stdout + opened.stderr + (tmp_path / ".config/syncer/palette.json").read_text()


async def test_offline_a_definition_is_made_of_files_alone(tmp_path: Path) -> None:
    exported = written(tmp_path, "profile.json", profile(pack("a", "quay.io/a/b:1"), pack("c", "quay.io/c/d:2")))
    values = tmp_path / "values.yaml"
    values.write_text("pack: {content: {images: [{image: 'quay.io/v/{{.spectro.var.name}}:1'}]}}\n")
    packs = tmp_path / "local-1.0.0"
    (packs / "charts").mkdir(parents=True)
    (packs / "pack.json").write_text('{"name": "local", "version": "1.0.0"}')
    (packs / "values.yaml").write_text("pack: {content: {images: [quay.io/l/m:3]}}\n")
    excluded = written(tmp_path, "excluded.json", profile(pack("x", "quay.io/c/d:2")))

    ran, document = await metadata(
        tmp_path, "--profile-file", exported, "--profile-file", values, "--packs", str(packs),
        "--exclude-profiles", str(excluded), "--set-var", "name=chosen", "--name", "edge",
    )  # fmt: skip

    assert ran.code == 0, ran.stderr
    assert listed(document) == ["quay.io/a/b:1", "quay.io/v/chosen:1", "quay.io/l/m:3"]
    assert [archive["name"] for archive in document["archives"]] == ["local"]
    assert document["name"] == "edge"
    assert yaml.safe_load((tmp_path / "out/bundle-definition.yaml").read_text()) == document


async def test_images_that_packs_do_not_list_are_told_loudly_and_scanned_on_demand(tmp_path: Path) -> None:
    manifests = [{"name": "extra", "content": "kind: Pod\nspec:\n  containers:\n    - image: quay.io/un/listed:1\n"}]
    exported = written(tmp_path, "profile.json", profile(pack("a", "quay.io/a/b:1"), pack("m", manifests=manifests)))

    plain = await syncer(
        "build", "--metadata-only", "--profile-file", exported, "--output", tmp_path / "plain", home=tmp_path
    )
    scanned, document = await metadata(tmp_path, "--profile-file", exported, "--scan")

    assert (plain.code, scanned.code) == (0, 0)
    assert "pack m 1.0.0 lists no images, and names 1 elsewhere: quay.io/un/listed:1 (extra)" in plain.stderr
    assert "NOT INCLUDED: 1 images" in plain.stdout
    assert listed(document) == ["quay.io/a/b:1", "quay.io/un/listed:1"]
    assert "NOT" not in scanned.stdout + scanned.stderr


async def test_what_a_scan_guessed_and_no_registry_has_is_a_warning(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as source:
        await client.push(source, "one", images.image("one"), "1")
        await client.push(source, "two", images.image("two"), "1")
        pod = "\n".join(
            f"    - {{name: a}}\n      image: {name}"
            for name in (f"{source.address}/two:1", f"{source.address}/gone:1", f"{UNUSED}/nowhere:1")
        )
        manifests = [{"name": "extra", "content": f"kind: Pod\nspec:\n  containers:\n{pod}\n"}]
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/one:1", manifests=manifests)))
        options = ("--profile-file", exported, "--scan", "--output", tmp_path / "out")
        built = await syncer("build", "--name", "edge", *options, home=tmp_path)
        noted = await syncer("build", "--metadata-only", *options, home=tmp_path)
        again = await syncer(
            "build",
            "-f",
            tmp_path / "out/bundle-definition.yaml",
            "--name",
            "again",
            "--output",
            tmp_path,
            home=tmp_path,
        )
        foreseen = await syncer("build", "--dry-run", *options, home=tmp_path)
        listed_and_gone = written(tmp_path, "gone.json", profile(pack("a", f"{source.address}/gone:1")))
        failed = await syncer("build", "--profile-file", listed_and_gone, "--output", tmp_path / "no", home=tmp_path)

    assert (built.code, noted.code, again.code, foreseen.code, failed.code) == (0, 0, 0, 0, 4), built.stderr
    for ran in (built, again, foreseen):
        assert "warning: 2 images that were only guessed are left out, since no registry gives them: " in ran.stderr
        assert f"{source.address}/gone:1, {UNUSED}/nowhere:1" in ran.stderr
    for name in ("out/edge.tar.zst", "again.tar.zst"):
        document = definition(tmp_path / name)
        assert listed(document) == [f"{source.address}/one:1", f"{source.address}/two:1"]
        assert all("guessed" not in image for image in document["images"])


async def test_a_guess_that_is_not_for_the_platform_is_left_out_too(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as source:
        await client.push(source, "one", images.image("one", architecture="s390x"), "1")
        await client.push(source, "arm", images.multi_platform("arm"), "1")
        manifests = [{"name": "extra", "content": f"image: {source.address}/arm:1\n"}]
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/one:1", manifests=manifests)))
        ran = await syncer(
            "build", "--profile-file", exported, "--scan", "--arch", "linux/s390x", "--output", tmp_path, home=tmp_path
        )

    assert ran.code == 0, ran.stderr
    assert f"no registry gives them for linux/s390x: {source.address}/arm:1" in ran.stderr


async def test_a_scan_looks_into_charts_of_repositories_and_names_those_that_it_cannot(tmp_path: Path) -> None:
    templates = {
        "app/Chart.yaml": "apiVersion: v2\nname: app\nversion: 1.0.0\nappVersion: '7'\n",
        "app/values.yaml": "image: {repository: quay.io/a/app, tag: v1}\n",
        "app/templates/pod.yaml": (
            "image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}\n"
        ),
    }
    async with chart_repository() as repository:
        repository.files["charts/app-1.0.0.tgz"] = tar_gz(templates)
        repository.index()
        url = str(repository.url)
        charts = [
            {"repo": url, "name": "alias/app", "version": "1.0.0"},
            {"repo": url, "name": "gone", "version": "1.0.0"},
            {"repo": f"{url}/installer.tar.gz", "name": "installer"},
        ]
        first, second = (pack(name, "quay.io/a/b:1", charts=charts[:number]) for name, number in (("a", 3), ("b", 1)))
        second["values"] += "charts: {app: {image: {tag: null}}}\n"
        exported = written(tmp_path, "profile.json", profile(first, second))
        plain, listed_alone = await metadata(tmp_path, "--profile-file", exported)
        asked = len(repository.requests)
        (tmp_path / "out/bundle-definition.yaml").unlink()
        scanned, document = await metadata(tmp_path, "--profile-file", exported, "--scan", "--images-only")

    assert (plain.code, scanned.code, asked) == (0, 0, 0), scanned.stderr
    assert listed(listed_alone) == ["quay.io/a/b:1"]
    assert listed(document) == ["quay.io/a/b:1", "quay.io/a/app:v1", "quay.io/a/app:7"]
    assert "not looked into" not in plain.stderr
    assert "pack a: chart gone 1.0.0 from" in scanned.stderr
    assert "was not looked into: " in scanned.stderr
    assert "pack a: chart installer (newest) from" in scanned.stderr
    assert "app 1.0.0" not in scanned.stderr


async def test_a_definition_can_be_edited_locked_and_built(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    one, two = images.multi_platform("one"), images.image("two")
    file = tmp_path / "out/bundle-definition.yaml"
    async with debian_registry() as source:
        await client.push(source, "one", one, "1")
        await client.push(source, "two", two, "1")
        exported = written(
            tmp_path, "profile.json", profile(pack("a", f"{source.address}/one:1", f"{source.address}/two:1"))
        )
        options = ("--profile-file", exported, "--output", tmp_path / "out")
        locked = await syncer("build", "--metadata-only", "--lock", *options, home=tmp_path)
        text = file.read_text()
        file.write_text(text.replace(f"  - image: {source.address}/two:1\n", "  - image: removed.invalid/x:1\n"))
        kept = await syncer("build", "--metadata-only", *options, home=tmp_path)
        file.write_text(text)
        await client.push(source, "one", two, "1")  # the tag moves; the digest in the definition binds
        built = await syncer("build", "-f", file, "--name", "edge", "--output", tmp_path / "out", home=tmp_path)

    assert (locked.code, kept.code, built.code) == (0, 2, 0), locked.stderr + built.stderr
    assert f"Writing flattened bundle definition file at path {file}" in locked.stdout
    assert "it may have been edited" in kept.stderr
    document = yaml.safe_load(text)
    assert [image["digest"] for image in document["images"]] == [one.digest, two.digest]
    assert document["images"][0]["platforms"] == ["linux/amd64", "linux/arm64", "linux/arm/v7"]
    assert document["images"][1]["size"] == two.size
    assert definition(tmp_path / "out/edge.tar.zst")["images"][0]["digest"] == one.digest


async def test_a_lock_of_what_is_not_there_writes_nothing(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as source:
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/gone:1")))
        ran = await syncer(
            "build", "--metadata-only", "--lock", "--profile-file", exported, "--output", tmp_path / "out",
            home=tmp_path,
        )  # fmt: skip

    assert ran.code == 4
    assert f"failed:  {source.address} has no repository gone\n" in ran.stdout
    assert not (tmp_path / "out").exists()


async def test_a_build_draws_on_bundles_at_hand(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as source:
        await client.push(source, "one", images.image("one"), "1")
        await syncer(
            "build", "--image", f"{source.address}/one:1", "--name", "old", "--output", tmp_path, home=tmp_path
        )
        name = f"{source.address}/one:1"
    exported = written(tmp_path, "profile.json", profile(pack("a", name)))

    built = await syncer(
        "build", "--profile-file", exported, "--existing-bundles", tmp_path / "old.tar.zst", "--name", "new",
        "--output", tmp_path, "--json", home=tmp_path,
    )  # fmt: skip

    assert built.code == 0, built.stderr
    assert built.json["totals"]["requests"] == 0
    assert definition(tmp_path / "new.tar.zst")["images"][0]["image"] == name


async def test_credentials_of_the_edge_cli_open_registries_and_chart_repositories(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry(login=LOGIN) as source, chart_repository() as charts:
        charts.login = ("helmsman", "anchor")
        charts.add_chart("app", "1.0.0")
        charts.index()
        await client.push(source, "team/one", images.image("one"), "1")
        chart = {"repo": str(charts.url), "name": "app", "version": "1.0.0"}
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/team/one:1", charts=[chart])))
        entry = {"endpoint": f"{source.address}/team", "username": LOGIN.username, "password": LOGIN.password}
        host = f"{charts.url.host}:{charts.url.port}"
        helm = {"endpoint": host, "username": "helmsman", "password": "anchor"}
        credentials = written(tmp_path, "credentials.json", {"image": [entry], "helm": [helm]})
        options = ("--profile-file", exported, "--output", tmp_path / "out")

        refused = await syncer("build", *options, home=tmp_path)
        built = await syncer("build", *options, "--cred-file-path", credentials, home=tmp_path)

    assert (refused.code, built.code) == (3, 0), built.stdout
    assert LOGIN.password not in built.stdout + built.stderr


async def test_a_bundle_and_its_cluster_definition_are_signed_as_openssl_does(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    openssl = needs("openssl")
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)  # noqa: ASYNC221
    subprocess.run([openssl, "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)  # noqa: ASYNC221
    async with debian_registry() as source, palette_server() as palette:
        await client.push(source, "one", images.image("one"), "1")
        palette.profiles[UID] = profile(pack("a", f"{source.address}/one:1"))

        built = await syncer(
            "build", "--profiles", UID, "--private-key", key, "--cluster-definition-name", "store", "--name", "edge",
            "--output", tmp_path / "out", home=tmp_path, **signed_in(palette),
        )  # fmt: skip

    assert built.code == 0, built.stderr
    for file in (tmp_path / "out/edge.tar.zst", tmp_path / "out/store.tgz"):
        checked = subprocess.run(  # noqa: ASYNC221
            [openssl, "dgst", "-sha256", "-verify", public, "-signature", f"{file}.sig.bin", file],
            check=False,
            capture_output=True,
        )
        assert checked.returncode == 0, file
    assert palette.definitions[0]["spec"]["profiles"] == [{"uid": UID}]
    travelling = definition(tmp_path / "out/edge.tar.zst")["files"][0]
    assert travelling["artifact"].startswith("files.invalid/cluster-definitions/store.tgz:")


async def test_a_cluster_definition_alone(tmp_path: Path) -> None:
    async with palette_server(profiles={UID: profile(pack("a"))}) as palette:
        ran = await syncer(
            "build", "--download-cluster-config-only", "--cluster-definition-name", "example-definition",
            "--cluster-definition-profile-ids", UID, "--output", tmp_path / "output", home=tmp_path,
            **signed_in(palette),
        )  # fmt: skip

    assert ran.code == 0, ran.stderr
    assert ran.stdout == f"Downloaded cluster config at {tmp_path}/output/example-definition.tgz\n"
    assert (tmp_path / "output/example-definition.tgz").read_bytes() == b"\x1f\x8b definition"


async def test_a_build_can_end_in_a_registry(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.multi_platform("one")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "one", image, "1")
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/one:1")))
        options = ("--profile-file", exported, "--name", "edge", "--output", tmp_path / "out")

        pushed = await syncer(
            "build", *options, "--push", "--registry", f"{target.address}/local", "--json", home=tmp_path
        )
        remote = await syncer(
            "build", *options, "--build-type", "remote", "-r", f"{target.address}/remote", home=tmp_path
        )
        again = await syncer(
            "build", *options, "--build-type=remote", "-r", f"{target.address}/remote", "--json", home=tmp_path
        )

        assert (pushed.code, remote.code, again.code) == (0, 0, 0), pushed.stderr + remote.stderr
        assert {"build", "push"} == set(pushed.json)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["edge.tar.zst"]
        for base in ("local", "remote"):
            await client.assert_holds(target, f"{base}/{source.address.replace(':', '_')}/one", image, "1")
            assert await client.tags(target, f"{base}/bundle-definition") == ["edge"]
        assert "remote bundle edge pushed" in remote.stdout
        assert again.json["totals"]["bytes_sent"] == 0


async def test_a_release_widgets_and_packs_travel_along(tmp_path: Path, serve_disk: OpenRegistry) -> None:
    widgets = tmp_path / "widgets.tar.gz"
    widgets.write_bytes(tar_gz({"index.html": "<p>"}))
    archive = tmp_path / "local-1.0.0.tar.gz"
    archive.write_bytes(
        tar_gz({"local-1.0.0/pack.json": '{"name": "local", "version": "1.0.0"}', "local-1.0.0/values.yaml": ""})
    )
    bundle = tmp_path / "edge.tar.zst"

    built = await syncer(
        "build", "--packs", archive, "--custom-ui", widgets, "--application-release-name", "till",
        "--application-release-version", "2.0", "--name", "edge", "--output", tmp_path, home=tmp_path,
    )  # fmt: skip
    bare = await syncer("build", "--packs", archive, "--images-only", "--output", tmp_path, home=tmp_path)
    async with serve_disk() as target:
        pushed = await syncer("push", "-f", bundle, "-r", f"{target.address}/base", home=tmp_path)
        places = await client.repositories(target)
        held = await client.manifest(target, "base/spectro-packs/archive/local", "1.0.0")
        layer = client.parsed(held)["layers"][0]
        content = await client.blob(target, "base/spectro-packs/archive/local", layer["digest"])
        verified = await syncer("verify", "-f", bundle, "-r", f"{target.address}/base", home=tmp_path)
        primary = await syncer("push", "-f", bundle, "-r", f"{target.address}/spectro-packs", home=tmp_path)
        tags = await client.tags(target, "spectro-packs/archive/local")

    codes = [ran.code for ran in (built, bare, pushed, verified, primary)]
    assert codes == [0, 2, 0, 0, 0], built.stderr + pushed.stderr
    assert tags == ["1.0.0"]
    assert "none of the packs lists an image" in bare.stderr
    assert definition(bundle)["release"] == {"name": "till", "version": "2.0"}
    assert places == [
        "base/bundle-definition", "base/custom-ui/widgets.tar.gz", "base/spectro-packs/archive/local"
    ]  # fmt: skip
    assert content.content == archive.read_bytes()


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["--include-service-images"], {}, "Palette's service images is not public"),
        (["--include-service-images=true"], {}, "Palette's service images is not public"),
        (["--include-core-palette-images-only"], {}, "Palette's core images is not public"),
        (["--fips"], {}, "FIPS service images is not public"),
        ([], {"INCLUDE_COMPLIANCE_IMAGES": "true"}, "compliance scans is not public"),
    ],
)
async def test_what_only_palette_could_list_is_refused_with_the_reason(
    tmp_path: Path, flags: list[str], environment: Mapping[str, str], said: str
) -> None:
    ran = await syncer("build", "--image", "busybox", *flags, home=tmp_path, **environment)

    assert ran.code == 2
    assert said in error(ran)


async def test_flags_that_say_false_are_taken(tmp_path: Path) -> None:
    exported = written(tmp_path, "profile.json", profile(pack("a", "quay.io/a/b:1")))

    ran, _ = await metadata(
        tmp_path, "--profile-file", exported, "--include-service-images=false", "--fips=false", "--push=false",
        "--include-core-palette-images-only=false", "--skip-cleanup=false", "--build-type", "local",
        INCLUDE_COMPLIANCE_IMAGES="false",
    )  # fmt: skip

    assert ran.code == 0, ran.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lock"], "--lock records digests"),
        (["--metadata-only", "--dry-run"], "--dry-run writes none"),
        (["--push"], "a push needs a registry"),
        (["--build-type", "remote"], "a push needs a registry"),
        (["--registry", UNUSED], "--registry is for --push"),
        (["--username", "u"], "about the registry that --registry names"),
        (["--metadata-file", "none.yaml"], "so do other flags"),
        (["--private-key", "none.pem"], "none.pem"),
        (["--images-only", "--include-packs"], "leaves out what"),
        (["--push", "-r", UNUSED, "--map", "x"], "is not a mapping"),
        (["--set-var", "x"], "is not NAME=VALUE"),
        (["--download-cluster-config-only"], "the cluster definition has no name"),
        (["--profiles", UID], "no Palette console is known"),
        (["--custom-ui", "x", "--download-cluster-config-only"], "makes none"),
        (["--packs", "none.tar.gz"], "none.tar.gz"),
        (["--build-type", "remote", "-r", UNUSED, "--private-key", "none.pem"], "none to sign"),
    ],
)
async def test_flags_that_contradict_each_other(tmp_path: Path, options: list[str], said: str) -> None:
    ran = await syncer("build", "--image", "busybox", *options, home=tmp_path)

    assert ran.code == 2
    assert said in error(ran)


@pytest.mark.parametrize(
    ("profiles", "environment", "code", "said"),
    [
        (OTHER, {}, 4, "404"),
        (f"{UID},{OTHER}", {}, 4, "404"),
        (UID, {"SYNCER_PROJECT_ID": "foreign"}, 3, "403"),
        (UID, {"SYNCER_API_KEY": "wr0ng"}, 3, "401"),
        ("../x", {}, 2, "is not an id of Palette"),
        (INFRA, {}, 2, "has no packs"),
    ],
)
async def test_what_a_console_refuses(
    tmp_path: Path, profiles: str, environment: Mapping[str, str], code: int, said: str
) -> None:
    known = {UID: profile(pack("a", "quay.io/a/b:1")), INFRA: profile(uid=INFRA, kind="infra")}
    async with palette_server(profiles=known) as palette:
        ran, _ = await metadata(tmp_path, "--profiles", profiles, **{**signed_in(palette), **environment})

    assert ran.code == code
    assert said in error(ran)
    assert KEY not in ran.stderr


async def test_two_infrastructure_profiles_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path, "one.json", profile(pack("a", "quay.io/a/b:1"), kind="infra"))
    two = written(tmp_path, "two.json", profile(pack("a", "quay.io/a/b:1"), kind="cluster", uid=OTHER))

    ran, _ = await metadata(tmp_path, "--profile-file", one, "--profile-file", two)

    assert ran.code == 2
    assert "at most one infrastructure or full profile" in error(ran)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("values.yaml", "pack:\n  content: {images: [\n", "values.yaml:3: column 1"),
        ("profile.json", '{"spec": \n x}', "profile.json:2: column 2"),
        ("values.yaml", "pack: {content: {images: [{image: '{{.spectro.var.no}}'}]}}", "the macro {{.spectro.var.no}}"),
        ("values.yaml", "pack: {content: {images: [{image: 'quay.io/A:1'}]}}", "pack.content.images[0].image"),
    ],
)
async def test_files_that_say_nonsense(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)

    ran, _ = await metadata(tmp_path, "--profile-file", tmp_path / name)

    assert ran.code == 2
    assert said in error(ran)


async def test_a_definition_that_was_edited_into_nonsense(tmp_path: Path) -> None:
    file = tmp_path / "bundle-definition.yaml"
    file.write_text("apiVersion: syncer/v1\nkind: BundleDefinition\nname: edge\nimages:\n  - image: quay.io/A/b:1\n")

    ran = await syncer("build", "--metadata-file", file, "--output", tmp_path / "out", home=tmp_path)

    assert ran.code == 2
    assert f"{file}:5: images[0].image: 'quay.io/A/b:1' is not an image reference" in error(ran)


async def test_a_chart_version_that_is_not_in_the_index(tmp_path: Path) -> None:
    async with chart_repository() as charts:
        for version in ("1.0.0", "1.2.0", "2.0.0"):
            charts.add_chart("app", version)
        charts.index()
        chart = {"repo": str(charts.url), "name": "app", "version": "1.1.0"}
        exported = written(tmp_path, "profile.json", profile(pack("a", charts=[chart])))

        ran = await syncer("build", "--profile-file", exported, "--output", tmp_path / "out", home=tmp_path)

    assert ran.code == 4
    assert "(nearest: 1.0.0, 1.2.0, 2.0.0)" in ran.stdout


async def test_charts_and_packs_that_were_fetched_are_kept_on_demand(tmp_path: Path) -> None:
    async with chart_repository() as charts:
        content = charts.add_chart("app", "1.0.0")
        charts.index()
        chart = {"repo": str(charts.url), "name": "app", "version": "1.0.0"}
        exported = written(tmp_path, "profile.json", profile(pack("a", charts=[chart])))

        ran = await syncer(
            "build", "--profile-file", exported, "--skip-cleanup", "--output", tmp_path / "out", home=tmp_path
        )

    assert ran.code == 0, ran.stderr
    assert content in [path.read_bytes() for path in (tmp_path / "out/spool").iterdir()]


async def test_a_locked_definition_of_packs_can_be_built_from_anywhere(tmp_path: Path) -> None:
    archive = tmp_path / "local-1.0.0.tar.gz"
    archive.write_bytes(tar_gz({"l/pack.json": '{"name": "local", "version": "1.0.0"}', "l/values.yaml": ""}))
    file = tmp_path / "out/bundle-definition.yaml"
    build = ("build", "--metadata-file", file, "--output", tmp_path / "out", "--name")

    locked = await syncer(
        "build", "--metadata-only", "--lock", "--packs", archive, "--output", tmp_path / "out", home=tmp_path
    )
    built = await syncer(*build, "same", home=tmp_path)
    archive.write_bytes(tar_gz({"l/pack.json": '{"name": "local", "version": "1.0.0"}', "l/values.yaml": "a: b"}))
    changed = await syncer(*build, "changed", home=tmp_path)

    assert (locked.code, built.code, changed.code) == (0, 0, 6), locked.stderr + built.stdout
    assert yaml.safe_load(file.read_text())["archives"][0]["path"] == str(archive)
    assert "path" not in definition(tmp_path / "out/same.tar.zst")["archives"][0]
    assert "is not the content whose digest the definition gives" in changed.stdout


async def test_packs_that_list_nothing_make_no_bundle(tmp_path: Path) -> None:
    exported = written(tmp_path, "profile.json", profile(pack("a")))

    ran = await syncer("build", "--profile-file", exported, "--output", tmp_path / "out", home=tmp_path)

    assert ran.code == 2
    assert "none of the packs lists an image or a chart" in error(ran)


async def test_a_definition_that_a_registry_refuses_is_told_in_every_form(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "one", images.image("one"), "1")
        await syncer("build", "--image", f"{source.address}/one:1", "--output", tmp_path, home=tmp_path)
        async with fault_proxy(target) as proxy:
            proxy.on("POST", "/bundle-definition/", Reply(403), times=None)
            push = ("push", "-f", tmp_path / "bundle.tar.zst", "-r", proxy.registry.address)
            ran = await syncer(*push, home=tmp_path)
            as_json = await syncer(*push, "--json", home=tmp_path)
            held = await client.tags(target, f"{source.address.replace(':', '_')}/one")

    assert (ran.code, as_json.code) == (3, 3)
    assert held == ["1"]
    assert "its definition could not be pushed" in ran.stdout
    assert "its definition could not be pushed" in as_json.stderr
    assert as_json.json["totals"]["images_skipped"] == 1


async def test_a_build_of_a_profile_can_be_foreseen(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.image("one")
    async with debian_registry() as source:
        await client.push(source, "one", image, "1")
        exported = written(tmp_path, "profile.json", profile(pack("a", f"{source.address}/one:1")))
        ran = await syncer(
            "build", "--dry-run", "--exit-code", "--profile-file", exported, "--output", tmp_path / "out",
            "--json", home=tmp_path,
        )  # fmt: skip

    assert ran.code == 10, ran.stderr
    assert not (tmp_path / "out").exists()
