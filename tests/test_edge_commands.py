"""What users of palette-edge do, and the flags that Palette's CLI has on every command."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.palette import KEY, palette_server
from tests.support.programs import needs
from tests.support.registries import LOGIN
from tests.test_palette_commands import UID, definition, pack, profile

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens


async def test_an_edge_build_and_its_deployment(
    debian_registry: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = images.multi_platform("one")
    async with debian_registry("source") as source, debian_registry("target", login=LOGIN) as target:
        await client.push(source, "one", image, "1")
        async with palette_server(profiles={UID: profile(pack("a", f"{source.address}/one:1"))}) as palette:
            build = (
                "edge", "--debug", "--logfile", "edge.log", "build", "--api-key", KEY, "--palette-endpoint",
                str(palette.url), "--project-id", "project-1", "--cluster-profile-ids", UID, "--outfile", "store",
                "--cluster-definition-name", "store", "--include-core-images-only=false",
            )  # fmt: skip
            built = await syncer(*build, home=tmp_path)
            again = await syncer(*build, home=tmp_path)
        bundles = list(tmp_path.glob("content-????????/core-store-????????.zst"))
        url = f"{target.address}/base"
        deploy = ("edge", "deploy", "--export", str(bundles[0]), "--url", url, "--username", LOGIN.username)
        refused = await syncer(*deploy, "--password", "wrong", home=tmp_path)
        deployed = await syncer(*deploy, "--password", LOGIN.password, home=tmp_path)

        assert (built.code, again.code, refused.code, deployed.code) == (0, 0, 3, 0), built.stderr + deployed.stderr
        await client.assert_holds(target, f"base/{source.address.replace(':', '_')}/one", image, "1")
    assert len(bundles) == 1
    assert f"bundle store saved to {bundles[0]}" in built.stdout
    assert (tmp_path / "store.tgz").exists()
    assert definition(bundles[0])["images"][0]["digest"] == image.digest
    assert "image_copied" in (tmp_path / "edge.log").read_text()
    assert "others; use --password-stdin" in deployed.stderr
    for ran in (built, refused, deployed):
        assert KEY not in ran.stdout + ran.stderr + (tmp_path / "edge.log").read_text()
        assert LOGIN.password not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["content", "upload", "host", "-f", "x", "--chunk-size", "1"], "port 5082 is not public"),
        (["upload"], "port 5082 is not public"),
        (["edge", "upload", "--anything"], "port 5082 is not public"),
        (["edge", "show"], "edge show cannot be done: palette-edge's version lists are not public"),
        (["edge", "build-from-local", "--x", "y"], "its input is not public"),
        (["edge", "build", "--iso", "--cluster-profile-ids", UID], "the layout of that ISO is not public"),
        (["edge", "build", "--include-core-images-only"], "Palette's core images is not public"),
        (["edge", "build", "--include-palette-content"], "Palette's own content is not public"),
        (["edge", "build", "--export-for-connected"], "its effect on a bundle is not public"),
        (["edge", "build"], "edge build needs profiles"),
        (["edge", "--config", "x", "show"], "the format of palette-edge's file is not public"),
        (["edge", "deploy", "--export", "x", "--url", UNUSED, "--password", "p"], "a password is given, and no user"),
        (["--log-level", "trace", "content", "build"], "--log-format"),
        (["serve", "--disk", "x", "--arch", "amd64"], "serve takes no --arch"),
        (["list", "--repo", UNUSED, "--arch", "amd64"], "list takes no --arch"),
        (["definition", "x", "--arch", "amd64"], "definition takes no --arch"),
        (["registry-login", "-r", UNUSED, "-u", "u", "-p", "p", "--arch", "amd64"], "registry-login takes no --arch"),
    ],
)
async def test_what_cannot_be_done_says_why(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = await syncer(*arguments, home=tmp_path)

    assert ran.code == 2
    assert said in ran.stderr


async def test_a_signature_is_checked_with_the_bundle(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    openssl = needs("openssl")
    keys = [tmp_path / "key.pem", tmp_path / "other.pem"]
    for key in keys:
        subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)  # noqa: ASYNC221
        public = key.with_suffix(".pub")
        subprocess.run([openssl, "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)  # noqa: ASYNC221
    bundle = tmp_path / "bundle.tar.zst"
    async with debian_registry() as source:
        await client.push(source, "one", images.image("one"), "1")
        built = await syncer(
            "build", "--image", f"{source.address}/one:1", "--private-key", keys[0], "-o", tmp_path, home=tmp_path
        )

    good = await syncer("verify", "-f", bundle, "--public-key", keys[0].with_suffix(".pub"), home=tmp_path)
    wrong = await syncer("verify", "-f", bundle, "--public-key", keys[1].with_suffix(".pub"), home=tmp_path)
    Path(f"{bundle}.sig.bin").unlink()
    absent = await syncer("verify", "-f", bundle, "--public-key", keys[0].with_suffix(".pub"), home=tmp_path)

    assert (built.code, good.code, wrong.code, absent.code) == (0, 0, 6, 2), built.stderr
    assert f"signature saved to {bundle}.sig.bin" in built.stdout
    assert "signature: good" in good.stdout
    assert "is not the signature of" in wrong.stderr
