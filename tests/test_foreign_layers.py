"""Foreign layers: left out and said so, or fetched from their vendor by the rules for redirects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jsonschema
import orjson
import pytest

from syncer.bundle import open_bundle
from syncer.oci import Digest
from syncer.report import human_bytes
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Truncate
from tests.support.images import Image, Layer
from tests.support.registries import LOGIN, Registry
from tests.support.tls import Authority

SCHEMA = orjson.loads((Path(__file__).parent.parent / "docs/report.schema.json").read_bytes())
FOREIGN = images.layer("windows", 300_000)
DIGEST = images.digest_of(FOREIGN.content)
SIZE = len(FOREIGN.content)


def vendor_url(vendor: Registry) -> str:
    return f"{vendor.url}/v2/windows/blobs/{DIGEST}"


def windows(*urls: str, docker: bool = False) -> Image:
    """An image whose base layer only its vendor may distribute."""
    media_type = (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        if docker
        else "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    )
    base: Layer = replace(FOREIGN, media_type=media_type, urls=urls)
    return images.image("windows app", layers=[base, images.layer("own")], docker=docker)


async def holds(registry: Registry, repository: str) -> bool:
    """Whether a client gets the foreign layer there."""
    answer = await client.ask(registry, "GET", f"/v2/{repository}/blobs/{DIGEST}")
    return answer.status == 200 and answer.content == FOREIGN.content


async def test_what_is_left_out_is_said(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """In the summary, in the report, by verify, and by a forecast: how many layers, and their bytes."""
    report, bundle = tmp_path / "report.json", tmp_path / "bundle.tar.zst"
    async with debian_registry() as registry:
        await client.push(registry, "app", windows("https://vendor.invalid/layer"), "v1")
        wanted = "--image", f"{registry.address}/app:v1"
        foreseen = await syncer("plan", *wanted, "--json", home=tmp_path)
        built = await syncer("build", *wanted, "--output", tmp_path, "--report", report, home=tmp_path)
    verified = await syncer("verify", "--file", bundle, home=tmp_path)
    checked = await syncer("verify", "--file", bundle, "--json", home=tmp_path)

    said = f"foreign: 1 layer of {human_bytes(SIZE)} that only the vendor may distribute (--include-foreign)"
    document = orjson.loads(report.read_bytes())
    jsonschema.validate(document, SCHEMA)
    assert (built.code, verified.code) == (0, 0)
    assert f"{said}, left out" in built.stdout
    assert f"{said}, not in the bundle" in verified.stdout
    for told in (document["totals"], checked.json, foreseen.json["totals"]):
        assert (told["foreign_layers"], told["bytes_foreign"]) == (1, SIZE)


@pytest.mark.parametrize("docker", [False, True])
async def test_a_foreign_layer_comes_along_into_a_bundle_and_out_of_it(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path, docker: bool
) -> None:
    """The vendor is shown no login, and a push sends what the bundle has, to any registry."""
    bundle, config = tmp_path / "bundle.tar.zst", tmp_path / "config.json"
    async with (
        serve_disk("vendor") as keeper,
        fault_proxy(keeper) as vendor,
        debian_registry("source", login=LOGIN) as source,
        debian_registry("target") as target,
        serve_disk("other") as other,
    ):
        config.write_text(
            orjson.dumps({"auths": {source.address: {"auth": LOGIN.header.removeprefix("Basic ")}}}).decode()
        )
        await client.push_blob(keeper, "windows", FOREIGN.content)
        image = windows(vendor_url(vendor.registry), docker=docker)
        await client.push(source, "app", image, "v1")

        built = await syncer(
            "build", "--image", f"{source.address}/app:v1", "--output", tmp_path, "--include-foreign",
            "--authfile", config, "--json", home=tmp_path,
        )  # fmt: skip
        verified = await syncer("verify", "--file", bundle, "--json", home=tmp_path)
        pushed = [
            await syncer("push", "--file", bundle, "--registry", f"{registry.address}/base", home=tmp_path)
            for registry in (target, other)
        ]
        asked = await syncer("verify", "--file", bundle, "--registry", f"{target.address}/base", home=tmp_path)

        name = f"base/{source.address.replace(':', '_')}/app"
        assert [each.code for each in (built, verified, *pushed, asked)] == [0] * 5, built.stderr + pushed[0].stderr
        assert built.json["totals"]["foreign_layers"] == verified.json["foreign_layers"] == 0
        assert await holds(target, name)
        assert await holds(other, name)
        await client.assert_holds(target, name, image, "v1")
    assert [exchange.method for exchange in vendor.exchanges.log] == ["GET"]
    assert "authorization" not in vendor.exchanges.log[0].headers


async def test_a_sync_and_a_copy_bring_it_along(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk("vendor") as vendor, serve_disk("source") as source, serve_disk("target") as target:
        await client.push_blob(vendor, "windows", FOREIGN.content)
        await client.push(source, "app", windows(vendor_url(vendor)), "v1")

        synced = await syncer(
            "sync", "--image", f"{source.address}/app:v1", "--registry", f"{target.address}/synced",
            "--include-foreign", home=tmp_path,
        )  # fmt: skip
        built = await syncer(
            "build", "--image", f"{source.address}/app:v1", "--build-type", "remote", "--registry",
            f"{source.address}/base", home=tmp_path,
        )  # fmt: skip
        copied = await syncer(
            "copy", "--source", f"{source.address}/base/bundle-definition:bundle", "--destination",
            tmp_path / "copy.tar", "--include-foreign", home=tmp_path,
        )  # fmt: skip

        assert (synced.code, built.code, copied.code) == (0, 0, 0), synced.stderr + built.stderr + copied.stderr
        assert f"1 layer of {human_bytes(SIZE)}" in built.stdout
        assert await holds(target, f"synced/{source.address.replace(':', '_')}/app")
    with open_bundle(tmp_path / "copy.tar") as bundle:
        assert bundle.read(Digest.parse(DIGEST)) == FOREIGN.content


async def test_a_registry_that_has_the_layer_is_asked_first(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    async with serve_disk() as registry:
        await client.push_blob(registry, "app", FOREIGN.content)
        await client.push(registry, "app", windows("http://127.0.0.1:9/layer"), "v1")

        built = await syncer(
            "build", "--image", f"{registry.address}/app:v1", "--output", tmp_path, "--include-foreign", home=tmp_path
        )

    assert built.code == 0, built.stderr


async def test_a_vendor_that_breaks_off_or_does_not_have_it(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """The next URL is tried, and a broken download goes on at the byte where it broke."""
    async with serve_disk("vendor") as keeper, fault_proxy(keeper) as vendor, serve_disk("source") as source:
        vendor.on("GET", "/blobs/", Truncate(at=100_000))
        await client.push_blob(keeper, "windows", FOREIGN.content)
        gone = f"{keeper.url}/v2/gone/blobs/{DIGEST}"
        await client.push(source, "app", windows(gone, vendor_url(vendor.registry)), "v1")

        built = await syncer(
            "build", "--image", f"{source.address}/app:v1", "--output", tmp_path, "--include-foreign", home=tmp_path
        )

    assert built.code == 0, built.stderr
    vendor.exchanges.assert_no_byte_came_twice()
    assert len(vendor.exchanges.log) == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://169.254.169.254/latest/meta-data", "a link-local address"),
        ("ftp://vendor.example/layer", "which is no HTTP address"),
        ("http://user:secret@127.0.0.1:9/layer", "holds a user name or password"),
    ],
)
async def test_a_url_leads_nowhere_that_a_redirect_may_not(
    serve_disk: OpenRegistry, tmp_path: Path, url: str, says: str
) -> None:
    """Whoever writes a manifest must not make us speak to the machine's own network."""
    async with serve_disk() as registry:
        await client.push(registry, "app", windows(url), "v1")

        built = await syncer(
            "build", "--image", f"{registry.address}/app:v1", "--output", tmp_path, "--include-foreign", home=tmp_path
        )

    assert built.code == 1
    assert "the URL of a foreign layer" in built.stdout
    assert says in built.stdout
    assert "secret" not in built.stdout + built.stderr
    assert not (tmp_path / "bundle.tar.zst").exists()


async def test_an_encrypted_registry_leads_to_no_other_vendor(
    serve_disk: OpenRegistry, tmp_path: Path, authority: Authority
) -> None:
    tls = authority.server("127.0.0.1")
    async with (
        serve_disk("vendor") as vendor,
        serve_disk("source", tls=tls, authority=authority.certificate) as source,
    ):
        await client.push_blob(vendor, "windows", FOREIGN.content)
        await client.push(source, "app", windows(vendor_url(vendor)), "v1")
        settings = tmp_path / "sync.yaml"
        settings.write_text(
            f"sources:\n- image: {source.address}/app:v1\ntargets:\n- registry: {vendor.address}/base\n"
            f"registries:\n  {source.address}:\n    plain_http: false\n    ca_cert: {authority.certificate}\n"
        )
        synced = await syncer("sync", "--config", settings, "--include-foreign", home=tmp_path)

    assert synced.code == 1, synced.stdout + synced.stderr
    assert "from an encrypted connection to one that is not" in synced.stdout


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(200, body=b"x" * SIZE), 6),
        (Reply(200, body=b"<html>"), 6),
        (Reply(403, body=b"not you"), 3),
        (Reply(404), 4),
    ],
)
async def test_what_the_vendor_sends_instead_is_no_layer(
    serve_disk: OpenRegistry, tmp_path: Path, reply: Reply, code: int
) -> None:
    """The digest decides, and an answer that is none has its own exit code."""
    async with serve_disk("vendor") as keeper, fault_proxy(keeper) as vendor, serve_disk("source") as source:
        vendor.on("GET", "/blobs/", reply, times=None)
        await client.push(source, "app", windows(vendor_url(vendor.registry)), "v1")

        built = await syncer(
            "build", "--image", f"{source.address}/app:v1", "--output", tmp_path, "--include-foreign", home=tmp_path
        )

    assert built.code == code, built.stdout
    assert not (tmp_path / "bundle.tar.zst").exists()


async def test_a_registry_that_allows_no_such_url_is_asked_three_times_and_named(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    """Distribution answers 500, however often it is asked; the hint says what it wants."""
    nowhere: Mapping[str, object] = {"validation": {"manifests": {"urls": {"allow": ["^https://only.example/"]}}}}
    async with (
        serve_disk("source") as source,
        debian_registry("target", config=nowhere) as strict,
        fault_proxy(strict) as target,
    ):
        await client.push(source, "app", windows("https://vendor.invalid/layer", docker=True), "v1")
        built = await syncer(
            "build", "--image", f"{source.address}/app:v1", "--output", tmp_path, home=tmp_path
        )  # fmt: skip

        pushed = await syncer(
            "push", "--file", tmp_path / "bundle.tar.zst", "--registry", target.registry.address, home=tmp_path
        )

    assert (built.code, pushed.code) == (0, 5)
    assert "validation.manifests.urls.allow" in pushed.stderr
    assert len(target.exchanges.of("PUT manifest")) <= 3


async def test_a_layer_that_a_registry_wants_and_the_bundle_lacks_is_named(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    """Nothing is sent again for a registry that asks for a layer which was left out."""
    unknown = orjson.dumps(
        {"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "no", "detail": {"digest": DIGEST}}]}
    )
    async with serve_disk("source") as source, serve_disk("target") as keeper, fault_proxy(keeper) as target:
        await client.push(source, "app", windows("https://vendor.invalid/layer"), "v1")
        await syncer("build", "--image", f"{source.address}/app:v1", "--output", tmp_path, home=tmp_path)
        target.on("PUT", "/manifests/", Reply(400, body=unknown), times=None)

        pushed = await syncer(
            "push", "--file", tmp_path / "bundle.tar.zst", "--registry", target.registry.address, home=tmp_path
        )

    assert pushed.code == 5
    assert "--include-foreign brings them along" in pushed.stderr
    target.exchanges.assert_no_byte_was_sent_twice(*windows("https://vendor.invalid/layer").blobs.values())
