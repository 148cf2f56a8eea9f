"""The tests' own support: what it generates is real, and the registries that it starts work."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import OpenRegistry, OpenTokenServer
from tests.support import client, images
from tests.support.programs import needs, run
from tests.support.registries import LOGIN
from tests.support.tls import Authority


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second, other = images.image("a"), images.image("a"), images.image("b")

    assert first == second
    assert first.digest != other.digest


def test_layers_are_tars_whose_digest_the_config_lists() -> None:
    made = images.image("a", layers=[images.layer("one", 100_000), images.layer("two", 5)])

    config = json.loads(made.blobs[made.document["config"]["digest"]])
    diff_ids = []
    for entry in made.document["layers"]:
        plain = gzip.decompress(made.blobs[entry["digest"]])
        diff_ids.append("sha256:" + hashlib.sha256(plain).hexdigest())
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            assert [member.isfile() for member in archive] == [True]
    assert config["rootfs"]["diff_ids"] == diff_ids


def test_a_shared_base_is_one_blob() -> None:
    base = images.layer("base", 10_000)

    first, second = images.multi_platform("a", base=base), images.multi_platform("b", base=base)

    assert set(first.all_blobs()) & set(second.all_blobs()) == {images.digest_of(base.content)}


async def test_an_image_pushed_to_a_registry_is_read_back(any_registry: OpenRegistry) -> None:
    made = images.multi_platform("a", base=images.layer("base"), attested=True)
    docker = images.multi_platform("b", docker=True)

    async with any_registry() as registry:
        await client.push(registry, "team/app", made, "v1", "latest")
        await client.push(registry, "team/docker", docker, "v1")

        await client.assert_holds(registry, "team/app", made, "v1", "latest")
        await client.assert_holds(registry, "team/docker", docker, "v1")
        assert await client.tags(registry, "team/app") == ["latest", "v1"]
        assert await client.repositories(registry) == ["team/app", "team/docker"]


async def test_every_kind_of_artifact_is_accepted(any_registry: OpenRegistry) -> None:
    subject = images.image("subject")
    tag, signature = images.cosign_signature(subject)
    nested = images.index(images.multi_platform("inner"), images.image("outer"))
    odd_layers = [
        images.layer("plain", compression="none"),
        images.layer("zstd", compression="zstd"),
        images.foreign_layer("vendor", "https://vendor.example/layer"),
    ]

    async with any_registry() as registry:
        for number, made in enumerate(
            [
                subject,
                signature,
                images.referrer(subject),
                images.chart("web"),
                nested,
                images.image("odd", layers=odd_layers),
            ]
        ):
            await client.push(registry, "app", made, f"t{number}")
            await client.assert_holds(registry, "app", made, f"t{number}")

    assert tag == f"sha256-{subject.digest.removeprefix('sha256:')}.sig"


async def test_content_survives_a_restart(any_registry: OpenRegistry) -> None:
    made = images.image("a")
    async with any_registry() as registry:
        await client.push(registry, "app", made, "v1")

    async with any_registry() as registry:
        await client.assert_holds(registry, "app", made, "v1")


async def test_a_registry_asks_for_a_password(any_registry: OpenRegistry) -> None:
    made = images.image("a")

    async with any_registry(login=LOGIN) as registry:
        refused = await client.ask(registry, "GET", "/v2/", headers={"Authorization": ""})
        await client.push(registry, "app", made, "v1")

        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        await client.assert_holds(registry, "app", made, "v1")


async def test_debians_registry_asks_for_a_token(debian_registry: OpenRegistry, token_server: OpenTokenServer) -> None:
    made = images.image("a")

    async with token_server(login=LOGIN) as tokens, debian_registry(tokens=tokens) as registry:
        refused = await client.ask(registry, "GET", "/v2/app/tags/list", headers={"Authorization": ""})
        await client.push(registry, "app", made, "v1")

        assert refused.status == 401
        assert f'Bearer realm="{tokens.realm}"' in refused.headers["WWW-Authenticate"]
        assert (await client.manifest(registry, "app", "v1")).content == made.content
        tokens.lifetime = -120
        assert (await client.manifest(registry, "app", "v1")).status == 401


async def test_debians_registry_speaks_tls(debian_registry: OpenRegistry, authority: Authority) -> None:
    made = images.image("a")

    async with debian_registry(
        tls=authority.server(), authority=authority.certificate, client=authority.client()
    ) as registry:
        await client.push(registry, "app", made, "v1")

        assert registry.url.startswith("https://127.0.0.1:")
        await client.assert_holds(registry, "app", made, "v1")


async def test_skopeo_reads_a_generated_image(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    made = images.multi_platform("a", base=images.layer("base"))

    async with debian_registry() as registry:
        await client.push(registry, "app", made, "v1")
        copied = await run(
            "skopeo",
            "copy",
            "--all",
            "--src-tls-verify=false",
            f"docker://{registry.address}/app:v1",
            f"dir:{tmp_path}/out",
        )

    assert copied.code == 0, copied.stderr
    assert (tmp_path / "out/manifest.json").read_bytes() == made.content


def test_a_missing_program_skips_but_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs no-such-program"):
        needs("no-such-program")

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs no-such-program"):
        needs("no-such-program")
