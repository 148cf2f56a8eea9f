"""The words for what goes wrong: the thing and not the protocol, one cause once, and a hint that helps here."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import orjson
import pytest
import yaml

from syncer.bundle import DEFAULT_OUTPUT
from syncer.cli import main
from syncer.transport.failures import no_connection
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.bundles import build, some_images
from tests.support.cli import Ran, syncer
from tests.support.fault_proxy import fault_proxy
from tests.support.faults import Reply, Stall
from tests.support.registries import LOGIN, Registry
from tests.support.tls import Authority

NOBODY = "127.0.0.1:9"  # the discard port: nothing listens
MANY = 12


async def bundle(open_registry: OpenRegistry, directory: Path) -> Path:
    """A bundle of two images, which are the same but for their names."""
    async with open_registry("bundled") as source:
        names = [word for name in ("a", "b") for word in ("--image", f"{source.address}/{name}:1")]
        for name in ("a", "b"):
            await client.push(source, name, images.image("same"), "1")
        built = await syncer("build", *names, "--name", "two", "--output", directory, home=directory)
    assert built.code == 0, built.stderr
    return directory / "two.tar.zst"


async def fill(registry: Registry, *tags: str) -> str:
    """Push busybox under ``tags``; returns the name of its repository."""
    for tag in tags:
        await client.push(registry, "library/busybox", images.image("busybox"), tag)
    return f"{registry.address}/library/busybox"


def told(ran: Ran) -> list[str]:
    """The lines of standard error about what went wrong, without those about how far the run is."""
    return [line for line in ran.stderr.splitlines() if line.startswith(("failed:", "hint:", "error:"))]


def says(ran: Ran, *sentences: str) -> bool:
    """Tell whether each of ``sentences`` is a whole line of standard error."""
    return set(sentences) <= set(ran.stderr.splitlines())


# who does not answer, or not as it should


@pytest.mark.parametrize("scheme", ["", "https://"])
async def test_a_connection_that_is_refused_is_said_once_for_all_images(
    debian_registry: OpenRegistry, tmp_path: Path, scheme: str
) -> None:
    file = await bundle(debian_registry, tmp_path)
    ran = await syncer("push", "--file", file, "--registry", f"{scheme}{NOBODY}/x", home=tmp_path)

    assert ran.code == 5
    assert told(ran) == [
        f"failed: {NOBODY} refused the connection (it is tried once more at the end)",
        "hint: is a registry running there?",
    ]
    assert f"\nfailed:  {NOBODY} refused the connection: 2 images not sent\n" in ran.stdout
    assert ran.stdout.count("refused") == 1


@pytest.mark.parametrize("kind", ["debian_registry", "serve_disk"])
async def test_a_host_that_speaks_https_is_told_from_one_that_speaks_http(
    request: pytest.FixtureRequest, authority: Authority, tmp_path: Path, kind: str
) -> None:
    open_registry: OpenRegistry = request.getfixturevalue(kind)
    file = await bundle(open_registry, tmp_path)
    certified = {"tls": authority.server(), "authority": authority.certificate}
    async with open_registry("plain") as plain, open_registry("tls", **certified) as tls:
        to_tls = await syncer("push", "--file", file, "--registry", f"{tls.address}/x", home=tmp_path)
        to_plain = await syncer("push", "--file", file, "--registry", f"https://{plain.address}/x", home=tmp_path)
        as_told = await syncer("push", "--file", file, "--registry", f"http://{plain.address}/x", home=tmp_path)
        certificate = ("--ca-cert", authority.certificate)
        with_one = await syncer("push", "-f", file, "-r", f"https://{plain.address}/x", *certificate, home=tmp_path)
        built = await syncer("build", f"https://{plain.address}/x:1", "--output", tmp_path / "built", home=tmp_path)
        asked = await syncer("push", "-f", file, "-r", f"{tls.address}/x", "--plain-http", home=tmp_path)

    assert told(with_one)[1:] == [f"hint: write http://{plain.address} and leave the certificates out"]
    assert told(built)[1:] == [f"hint: write http://{plain.address}, or give --plain-http"]
    leave = "leave out --plain-http (plain_http in a sync file)"
    assert told(asked)[1:] == [f"hint: {leave}, and write https://{tls.address}"]
    assert "bundle bundle is not complete and was not published\n" in built.stdout
    assert (to_tls.code, to_plain.code, as_told.code) == (1, 1, 0)
    assert f"failed:  {tls.address} speaks HTTPS: 2 images not sent" in to_tls.stdout
    assert told(to_tls) == [f"failed: {tls.address} speaks HTTPS", f"hint: write https://{tls.address}"]
    assert f"failed:  {plain.address} speaks plain HTTP, and no HTTPS: 2 images not sent" in to_plain.stdout
    assert told(to_plain) == [
        f"failed: {plain.address} speaks plain HTTP, and no HTTPS",
        f"hint: write http://{plain.address}, or give --plain-http",
    ]


@pytest.mark.parametrize(
    ("names", "is_expired", "words", "hint"),
    [
        (["127.0.0.1"], True, "has expired", "have it renewed there, or accept any certificate with --insecure"),
        (["registry.example.com"], False, "is for another name", "write the name that the certificate has"),
    ],
)
async def test_a_certificate_is_wrong_in_its_own_words(  # noqa: PLR0917  (a row of a table)
    debian_registry: OpenRegistry,
    authority: Authority,
    tmp_path: Path,
    names: list[str],
    is_expired: bool,
    words: str,
    hint: str,
) -> None:
    file = await bundle(debian_registry, tmp_path)
    identity = authority.server(*names, expired=is_expired)
    async with debian_registry(tls=identity, authority=authority.certificate) as registry:
        push = ("push", "--file", file, "--registry", f"https://{registry.address}/x")
        ran = await syncer(*push, "--ca-cert", authority.certificate, home=tmp_path)

    assert f"failed:  the TLS certificate of {registry.address} {words}: 2 images not sent" in ran.stdout
    assert f"hint: {hint}" in ran.stderr


async def test_an_authority_that_nobody_knows_is_told_from_a_certificate_that_signs_itself(
    debian_registry: OpenRegistry, authority: Authority, tmp_path: Path
) -> None:
    file = await bundle(debian_registry, tmp_path)
    async with (
        debian_registry("a", tls=authority.server(), authority=authority.certificate) as unknown,
        debian_registry("b", tls=authority.self_signed(), authority=authority.certificate) as alone,
    ):
        ran = [
            await syncer("push", "--file", file, "--registry", f"https://{registry.address}/x", home=tmp_path)
            for registry in (unknown, alone)
        ]

    assert "cannot be trusted: this machine does not know its authority: 2 images not sent" in ran[0].stdout
    assert "cannot be trusted: it is self-signed: 2 images not sent" in ran[1].stdout
    assert all("--ca-cert" in each.stderr for each in ran)


async def test_a_name_that_does_not_exist_is_said_of_its_host(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    file = await bundle(debian_registry, tmp_path)
    ran = await syncer("push", "--file", file, "--registry", "no-such-host.invalid/x", home=tmp_path)

    said = "no-such-host.invalid cannot be found: there is no host of that name"
    if "cannot be looked up" not in ran.stdout:  # as on a machine without a name server
        assert f"failed:  {said}: 2 images not sent" in ran.stdout


async def test_a_registry_takes_no_tag(tmp_path: Path) -> None:
    tagged = await syncer("push", "--file", "x", "--registry", f"{NOBODY}/x:tag", home=tmp_path)
    digested = await syncer("push", "--file", "x", "--registry", f"{NOBODY}/x@sha256:{64 * '0'}", home=tmp_path)

    assert (tagged.code, digested.code) == (2, 2)
    assert says(
        tagged, f"error: --registry: '{NOBODY}/x:tag' has a tag, and a registry takes no tag", "hint: leave out :tag"
    )
    assert "a registry takes no digest" in digested.stderr


async def test_the_address_of_a_registry_holds_no_login(tmp_path: Path) -> None:
    digest = f"sha256:{64 * '0'}"
    (tmp_path / "sync.yaml").write_text(
        f"version: 1\nsources: [{{image: '{NOBODY}/a:1'}}]\ntargets: [{{registry: 'http://me:p/wd@{NOBODY}/x'}}]\n"
    )
    rans = [
        await syncer("push", "x", f"me:p/wd@{NOBODY}/x", home=tmp_path),
        await syncer("push", "x", f"http://me:p@wd@{NOBODY}/x", home=tmp_path),
        await syncer("push", "x", f"me:pwd@{NOBODY}/x@{digest}", home=tmp_path),
        await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path),
    ]

    for ran in rans:
        assert ran.code == 2
        assert f"'{NOBODY}/x' is written with a login, and the address of a registry holds none" in ran.stderr
        assert f"leave it out, and log in with syncer login {NOBODY}\n" in ran.stderr
        assert "wd" not in ran.stderr


async def test_a_login_is_asked_for_by_the_command_that_keeps_it(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN) as registry:
        ran = await syncer("build", "--image", f"{registry.address}/app:1", "--output", tmp_path, home=tmp_path)

    assert ran.code == 3
    assert says(ran, f"hint: log in: syncer registry-login --registry {registry.address} --username NAME")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ECONNREFUSED, "t.io:5000 refused the connection"),
        (errno.EHOSTUNREACH, "there is no route to t.io:5000"),
        (errno.ENETUNREACH, "there is no route to t.io:5000"),
        (errno.ECONNRESET, "t.io:5000 cannot be reached: connection reset by peer"),
    ],
)
def test_what_the_system_says_of_a_connection_has_words_of_its_own(number: int, words: str) -> None:
    """A missing route cannot be had here."""
    assert str(no_connection(OSError(number, os.strerror(number)), "t.io:5000")) == words


# names that are not there


async def test_a_missing_tag_names_the_nearest_ones_and_its_line(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        busybox = await fill(registry, "1.36.1", "1.37", "1.37-glibc", "latest")
        busybox = busybox.replace(registry.address, proxy.registry.address)
        listed = tmp_path / "images.txt"
        listed.write_text(f"# two of three are wrong\n{busybox}:1.37\n\n{busybox}:1.38\n{busybox}:lates\n")
        ran = await syncer("build", "--no-referrers", "--images-file", listed, "--output", tmp_path, home=tmp_path)
        asked = [one for one in proxy.exchanges.log if "/tags/list" in one.target]

    assert ran.code == 4
    assert says(
        ran,
        f"failed: {busybox} has no tag 1.38 (nearest: 1.37, 1.36.1)",
        f"failed: {busybox} has no tag lates (nearest: latest)",
        f"hint: correct {listed}:4, {listed}:5, or publish the rest with --allow-partial",
    )
    assert "bundle bundle is not complete and was not published\n" in ran.stdout
    assert len(asked) == 1


async def test_a_name_that_is_not_there_has_its_line_in_every_file(
    serve_disk: OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it stands whole, and where its tag or version stands apart; a name that is right elsewhere is not told."""
    async with serve_disk() as registry:
        busybox = await fill(registry, "1.36.1", "1.37")
        await client.push(registry, "charts/app", images.chart("app"), "1.0.0")
        files = {
            "images.txt": f"{busybox}:1.37\nhttp://{busybox}:1.1  # {busybox}:1.2\n",
            "deploy.yaml": "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"
            f"    - image: {busybox}:1.37\n    - {{name: b, image: '{busybox}:1.2'}}\n",
            "sync.yaml": f"""
                sources:
                  - images_file: images.txt
                  - profile_file: deploy.yaml
                  - image: {busybox}:1.3
                  - repository: {busybox}
                    tags:
                      - "1.37"
                      - "1.4"
                  - chart:
                      repository: oci://{registry.address}/charts
                      name: app
                      version: 9.9.9
                targets: [{{registry: {registry.address}/to}}]
            """,
            "definition.yaml": "apiVersion: syncer/v1\nkind: BundleDefinition\nname: b\nimages:\n"
            f"  - image: {busybox}:1.37\n  - image: {busybox}:1.5\n",
        }
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        where = {
            ("build", "--images-file", "images.txt"): "images.txt:2",
            ("build", "--profile-file", "deploy.yaml"): "deploy.yaml:6",
            ("build", "--dry-run", "--metadata-file", "definition.yaml"): "definition.yaml:6",
            ("sync", "sync.yaml"): "sync.yaml:5, sync.yaml:9, sync.yaml:13, images.txt:2, deploy.yaml:6",
            ("plan", "-c", "sync.yaml"): "sync.yaml:5, sync.yaml:9, sync.yaml:13, images.txt:2, deploy.yaml:6",
        }
        for words, lines in where.items():
            ran = await syncer(*words, home=tmp_path)
            hints = [line for line in ran.stderr.splitlines() if line.startswith("hint: ")]
            may_be_partial = words[0] == "build" and "--dry-run" not in words
            rest = ", or publish the rest with --allow-partial" if may_be_partial else ""
            assert (ran.code, hints) == (4, [f"hint: correct {lines}{rest}"])


async def test_tags_that_are_not_told_fail_nothing_more(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await fill(registry, "1.37")
        proxy.on("GET", "/tags/list", Reply(403), times=None)
        image = f"{proxy.registry.address}/library/busybox:1.38"
        ran = await syncer("build", "--image", image, "--output", tmp_path, home=tmp_path)

    assert ran.code == 4
    assert says(ran, f"failed: {image.removesuffix(':1.38')} has no tag 1.38", "hint: correct the name")


async def test_a_repository_that_is_not_there_is_no_missing_tag(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        ran = await syncer("build", "--image", f"{registry.address}/busybx:1", "--output", tmp_path, home=tmp_path)

    assert ran.code == 4
    assert f"{registry.address} has no repository busybx" in ran.stdout


async def test_an_image_without_a_platform_says_which_it_has(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        busybox = await fill(registry, "1")
        options = ("--arch", "arm64", "--output", tmp_path)
        ran = await syncer("build", "--image", f"{busybox}:1", *options, home=tmp_path)

    assert f"\nfailed:  {busybox}:1 has no linux/arm64, only linux/amd64\n" in ran.stdout


async def test_a_place_without_bundles_says_where_they_may_be(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await fill(registry, "1.37")
        ran = await syncer("list", "--repo", f"{registry.address}/images", home=tmp_path)
        image = await syncer("definition", f"{registry.address}/library/busybox:1.37", home=tmp_path)

    at = f"{registry.address}/images"
    assert (ran.code, image.code) == (4, 6)
    assert says(ran, f"error: there are no bundles at {at} or {at}/bundle-definition")
    assert says(image, f"error: {registry.address}/library/busybox:1.37 is an image, not a bundle definition")


# what came that should not have come


async def test_what_a_registry_sends_is_named_with_its_request(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    index = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":"none"}'
    kind = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        image = f"{proxy.registry.address}/app:1"
        build = ("build", "--image", image, "--output", tmp_path)
        proxy.on("GET", "/manifests/1", Reply(200, kind, index))
        listless = await syncer(*build, home=tmp_path)
        proxy.on("GET", "/manifests/1", Reply(200, kind, b"\x1f\x8b\x08 and more"))
        zipped = await syncer(*build, home=tmp_path)

    request = f"GET http://{proxy.registry.address}/v2/app/manifests/1"
    assert f'{request}: a manifest\'s manifests must be a list, and what came is "none"' in listless.stdout
    assert f"{request}: the registry sent compressed data that nobody asked for" in zipped.stdout


# files


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
async def test_a_bundle_that_is_cut_short_says_how_much_is_there(
    debian_registry: OpenRegistry, tmp_path: Path, form: str
) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("app"), "1")
        options = ("--format", form, "--output", tmp_path)
        await syncer("build", "--image", f"{registry.address}/app:1", *options, home=tmp_path)
    whole = (tmp_path / f"bundle.{form}").read_bytes()
    (cut := tmp_path / f"cut.{form}").write_bytes(whole[:3000])

    ran = await syncer("verify", "--file", cut, home=tmp_path)

    assert ran.code == 6
    assert "it is cut short (3,000 bytes are there, and " in ran.stderr
    if found := re.search(r"at least ([0-9,]+) are missing\)\n", ran.stderr):
        assert 0 < int(found[1].replace(",", "")) <= len(whole) - 3000
    else:
        assert form == "tar"  # cut between two members
        assert "its end is missing)\n" in ran.stderr
    assert says(ran, "hint: copy it again, and compare the sizes of both files")


@pytest.mark.parametrize(
    ("command", "content"),
    [
        ("build --metadata-file {file}", ""),
        ("build --profile-file {file}", "# nothing\n"),
        ("build --images-file {file}", "# nothing\n"),
        ("build --image a --have {file}", ""),
        ("build --image a --cred-file-path {file}", ""),
        ("sync -c {file}", ""),
        ("sync -c {file}", "# nothing\n"),
        ("sync --image a -r b.io --map {file}", "# nothing\n"),
        ("push --file x --targets-file {file}", ""),
        ("import {file}", ""),
    ],
)
async def test_an_empty_file_is_called_empty(tmp_path: Path, command: str, content: str) -> None:
    (file := tmp_path / "bad4.yaml").write_text(content)

    ran = await syncer(*command.format(file=file).split(), home=tmp_path)

    assert ran.code == 2
    assert "is empty" in ran.stderr


async def test_a_file_of_mappings_is_told_all_its_mistakes(tmp_path: Path) -> None:
    (file := tmp_path / "map.yaml").write_text("registryMappingRules:\n  quay.io/a: [b]\n  quay.io/c: [d]\n")

    ran = await syncer("sync", "--image", "a", "-r", "b.io", "--map", file, home=tmp_path)

    assert ran.code == 2
    assert [line.partition(" registry")[0] for line in told(ran)] == [f"error: {file}:2:", f"error: {file}:3:"]


async def test_a_run_that_is_out_of_time_says_which_flag_ended_it(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        await fill(registry, "1")
        proxy.on("GET", "/manifests/", Stall("answer"), times=None)
        image = f"{proxy.registry.address}/library/busybox:1"
        options = ("--timeout", "0.2s", "--state-dir", tmp_path)
        ran = await syncer("sync", "--image", image, "-r", f"{registry.address}/x", *options, home=tmp_path)

    assert ran.code == 1
    assert "stopped by --timeout after 0.2 s; the next run goes on\n" in ran.stdout


# many failures


async def test_a_cause_is_said_once_and_each_image_is_in_the_report(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Of two targets one is down: it is named as the file names it, and the other one gets everything."""
    async with debian_registry("source") as source, debian_registry("target") as target:
        for number in range(MANY):
            await client.push(source, f"app{number}", images.image("same"), "1")
        file = tmp_path / "sync.yaml"
        document = {
            "sources": [{"image": f"{source.address}/app{number}:1"} for number in range(MANY)],
            "targets": [{"name": "edge3", "registry": NOBODY}, {"name": "office", "registry": target.address}],
        }
        file.write_text(yaml.safe_dump(document))
        options = ("--state-dir", tmp_path / "state", "--report", tmp_path / "report.json")
        ran = await syncer("sync", "-c", file, *options, home=tmp_path)
        printed = await syncer("sync", "-c", file, *options, "--json", home=tmp_path)

    assert (ran.code, printed.code) == (5, 5)
    assert told(ran) == [
        f"failed: edge3 ({NOBODY}) refused the connection (it is tried once more at the end)",
        "hint: is a registry running there?",
    ]
    assert f"failed:  edge3 ({NOBODY}) refused the connection: {MANY} images not sent" in ran.stdout
    assert ran.stdout.count("refused") == 1
    assert f"failed:  edge3 ({NOBODY}) refused the connection: {MANY} images not sent" in printed.stderr
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    failed = [image for image in report["images"] if image["status"] == "failed"]
    assert len(failed) == MANY
    assert {image["message"] for image in failed} == {f"{NOBODY} refused the connection"}


async def test_images_that_fail_alike_share_a_line(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        for number in range(MANY):
            await client.push(registry, f"app{number:02}", images.image("same"), "1")
        names = [word for number in range(MANY) for word in ("--image", f"{registry.address}/app{number:02}:1")]
        ran = await syncer("build", *names, "--arch", "s390x", "--output", tmp_path, home=tmp_path)

    (line,) = re.findall("failed:  (.*)", ran.stdout)
    assert line.startswith(f"{registry.address}/app")
    assert line.endswith(f" and {MANY - 5} more: has no linux/s390x, only linux/amd64")
    assert sum("has no linux/s390x" in said for said in ran.stderr.splitlines()) == 1


async def test_a_registry_that_answers_badly_is_one_cause_whatever_it_was_asked(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    file = await bundle(debian_registry, tmp_path)
    async with debian_registry() as registry, fault_proxy(registry) as proxy:
        proxy.on("PUT", "/manifests/", Reply(507, body=b"no space left"), times=None)
        ran = await syncer("push", "--file", file, "--registry", proxy.registry.address, home=tmp_path)

    assert ran.code == 5
    assert f"failed:  {proxy.registry.address}: 507 no space left: 2 images not sent" in ran.stdout
    assert ran.stderr.count("hint: ") == 1


async def test_a_damaged_bundle_is_named_with_what_tells_a_whole_copy(serve_disk: OpenRegistry, tmp_path: Path) -> None:
    """However it is read, and whoever notices: a registry that refuses a blob, or syncer itself."""
    await build(whole := tmp_path / "whole.tar", some_images(), "tar")
    content = bytearray(whole.read_bytes())
    content[content.index(images.layer("base", 700_000).content) + 300_000] ^= 1
    (damaged := tmp_path / "damaged.tar").write_bytes(content)
    async with serve_disk() as registry:
        ran = [
            await syncer("push", damaged, f"{registry.address}/x", home=tmp_path),
            await syncer("copy", damaged, tmp_path / "copy.tar", home=tmp_path),
            await syncer("verify", damaged, home=tmp_path),
            await syncer("export", damaged, "-o", tmp_path / "out.tar", home=tmp_path),
        ]

    for each in ran:
        assert each.code == 6
        hints = [line for line in each.stderr.splitlines() if line.startswith("hint: ")]
        assert hints == [
            "hint: copy the file again from where it was built; syncer verify FILE says whether a copy is whole"
        ]
        assert str(damaged) in each.stdout + each.stderr
        assert "alters content" not in each.stdout + each.stderr


async def test_a_bundle_that_is_not_there_names_the_nearest_and_how_they_are_listed(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    await build(file := tmp_path / "edge.tar", some_images(), "tar")
    async with serve_disk() as registry:
        place = f"{registry.address}/base"
        assert (await syncer("push", file, place, home=tmp_path)).code == 0
        ran = [
            await syncer(command, f"{place}/bundle-definition:egde", home=tmp_path)
            for command in ("save", "definition")
        ]
        base_alone = await syncer("definition", place, home=tmp_path)

    hint = f"hint: syncer list {place} lists the bundles that are there, as HOST/BASE/bundle-definition:NAME"
    for each in ran:
        assert (each.code, told(each)) == (
            4,
            [f"error: {place}/bundle-definition has no tag egde (nearest: edge)", hint],
        )
    assert told(base_alone) == [f"error: {registry.address} has no repository base", hint]


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        ("", "it is empty", "copy it again from where it was built"),
        (
            "\n<!DOCTYPE html>\n<p>é",
            "it is a web page, and not what was asked for",
            "download it again, and look what ",
        ),
        ("busybox:1\n", "it is a text, such as a definition or a list of images", "syncer build --images-file {} "),
    ],
)
def test_a_file_that_is_no_bundle_is_told_with_what_may_be_done(
    tmp_path: Path, content: str, what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "file").write_text(content)

    assert main(["verify", str(file)]) == 2

    error, helps = capsys.readouterr().err.splitlines()
    assert error == f"error: {file} is no whole bundle or archive of images: {what}"
    assert helps.startswith(f"hint: {hint.format(file)}")


@pytest.mark.parametrize("name", ["edge", "edge.tar.zst"])
@pytest.mark.parametrize("command", ["push -r a.io/b -f", "verify", "plan -r a.io/b -f"])
def test_a_bundle_that_a_build_put_elsewhere_is_told_with_its_place(
    command: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (built := tmp_path / DEFAULT_OUTPUT / "edge.tar.zst").parent.mkdir(parents=True)
    built.touch()
    monkeypatch.chdir(tmp_path)

    assert main([*command.split(), name]) == 2

    assert capsys.readouterr().err.splitlines() == [
        f"error: {name}: there is no such file",
        "hint: a build has made output/content-bundle/edge.tar.zst",
    ]


async def test_a_registry_that_lacks_everything_is_told_in_twenty_lines(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    await build(file := tmp_path / "edge.tar", some_images(), "tar")
    async with serve_disk() as registry:
        ran = await syncer("verify", file, f"{registry.address}/nothing", home=tmp_path)
        document = await syncer("verify", file, f"{registry.address}/nothing", "--json", home=tmp_path)

    lacking = len(document.json["lacking"])
    assert lacking > 20
    assert ran.stdout.count("lacking: ") == 20
    assert f"         and {lacking - 20} more, all of which --json lists\n" in ran.stdout


def test_a_destination_that_is_neither_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["copy", "a.tar", "b"]) == 2

    assert capsys.readouterr().err.splitlines()[1] == (
        "hint: give its port too, or http:// or https:// before it; the name of a file ends with .tar.zst or .tar"
    )
