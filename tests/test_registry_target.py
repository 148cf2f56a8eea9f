"""What a registry as a target says no to, and what becomes of it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from syncer.errors import ChildrenUnknown, Denied, DigestMismatch, RegistryError, SyncerError, TargetError
from syncer.oci import Digest, parse_manifest
from syncer.registry.answers import hint_for
from tests.support import images
from tests.support.images import Image, digest_of
from tests.support.quirky import Fault, Handler, Quirky, problem, proceed, quirky_registry, reset, status
from tests.support.registry_end import blob_of, name_at, registries_for, target_at, write

IMAGE, OTHER = images.image("target"), images.image("other")
MANIFEST = parse_manifest(IMAGE.content, IMAGE.media_type)


def refuses(number: int, code: str, message: str = "", *, detail: object = None) -> Fault:
    async def fault(*_: object) -> web.StreamResponse:
        return problem(number, code, message, detail=detail)

    return fault


def tags(registry: Quirky) -> set[str]:
    return {name for name in registry.manifests.get("app", {}) if ":" not in name}


@pytest.mark.parametrize(
    ("number", "code"), [(412, "PRECONDITION"), (409, "UNSUPPORTED"), (400, "TAG_INVALID"), (403, "DENIED")]
)
async def test_a_tag_that_may_not_be_moved_and_is_right_is_done(number: int, code: str) -> None:
    """§3 row 41: Harbor, Azure's and Amazon's registries say so in different ways."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": (IMAGE.media_type, IMAGE.content)}
        registry.on("PUT manifest", refuses(number, code, "The image tag 'v1' already exists and is immutable"))

        await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])


async def test_a_tag_that_may_not_be_moved_and_is_another_is_an_error() -> None:
    """§3 row 41."""
    other = images.image("other")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": (other.media_type, other.content)}
        registry.on("PUT manifest", refuses(412, "PRECONDITION", "immutable tag"))

        with pytest.raises(TargetError, match="immutable tag") as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

    assert "another tag" in (caught.value.hint or "")


async def test_a_manifest_is_stored_under_every_name() -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        names = [name_at(registry.address, "app", tag) for tag in ("v1", "v2", "v1")]

        await target_at(registries, registry.url).commit("app", MANIFEST, names)

        assert tags(registry) == {"v1", "v2"}
        assert len(registry.requests("PUT")) == 2


@pytest.mark.parametrize("code", ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"])
@pytest.mark.parametrize("detail", ["sha256:" + "1" * 64, {"digest": "sha256:" + "1" * 64}])
async def test_content_that_a_registry_misses_after_all_is_named(code: str, detail: object) -> None:
    """§3 row 38."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", refuses(404 if code == "MANIFEST_UNKNOWN" else 400, code, detail=detail))

        with pytest.raises(ChildrenUnknown) as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

    assert caught.value.digests == ("sha256:" + "1" * 64,)


@pytest.mark.parametrize("number", [400, 500, 503])
async def test_missing_content_is_no_trouble_that_passes(number: int) -> None:
    """A status that is asked again otherwise; what is missing is sent then, and asked for once more."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", refuses(number, "MANIFEST_BLOB_UNKNOWN", detail=digest_of(b"lost")), times=9)

        with pytest.raises(ChildrenUnknown) as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

        assert caught.value.digests == (digest_of(b"lost"),)
        assert len(registry.requests("PUT")) == 1


async def test_a_server_in_trouble_is_sent_the_manifest_again() -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", refuses(500, "UNKNOWN"), refuses(503, "UNAVAILABLE"), reset)

        await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

        assert len(registry.requests("PUT")) == 4
        assert tags(registry) == {"v1"}


async def test_a_manifest_that_is_stored_as_another_is_an_error() -> None:
    """§1.5."""

    async def changed(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Docker-Content-Digest"] = digest_of(b"rewritten")
        return response

    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", changed)

        with pytest.raises(DigestMismatch, match="stored"):
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])


@pytest.mark.parametrize(
    ("number", "code", "message", "hint"),
    [
        (400, "MANIFEST_INVALID", "unknown media type", "may have to be allowed"),
        (415, "UNSUPPORTED", "docker media types are not supported", "may have to be allowed"),
        (404, "NAME_UNKNOWN", "repository name not known to registry", "created first"),
        (403, "DENIED", "adding 5 MiB will exceed the quota", "make room"),
        (507, "UNKNOWN", "no space left on device", "make room"),
        (413, "UNKNOWN", "too large", "limits the size"),
        (500, "UNKNOWN", "driver failed", None),
        (302, "UNKNOWN", "", None),
    ],
)
async def test_a_refused_manifest_is_the_targets_no_with_a_hint(
    number: int, code: str, message: str, hint: str | None
) -> None:
    """§3 rows 40 and 42: in the registry's own words."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", refuses(number, code, message), times=9)

        with pytest.raises(TargetError, match=message or str(number)) as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

    assert caught.value.exit == 5
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize("number", [401, 403])
async def test_being_denied_stays_that(number: int) -> None:
    """Exit code 3."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("PUT manifest", status(number), times=9)

        with pytest.raises(Denied) as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])

    assert caught.value.exit == 3
    assert caught.value.hint


@pytest.mark.parametrize("number", [401, 403, 404, 405, 500])
async def test_a_target_that_cannot_tell_what_it_has_is_pushed_to(number: int) -> None:
    """§1.5: HEAD saves work, and decides nothing."""
    async with quirky_registry() as registry, registries_for() as registries:
        registry.head_status = number

        assert await target_at(registries, registry.url).current(name_at(registry.address, "app")) is None
        assert await write(target_at(registries, registry.url), "app", blob_of(images.noise("x", 5 << 20)))


async def test_a_target_that_has_a_blob_in_another_size_is_sent_it() -> None:
    """§1.7: such a HEAD is suspect (project-zot/zot#4427)."""
    blob = blob_of(images.noise("stub", 5 << 20))
    async with quirky_registry() as registry, registries_for() as registries:
        registry.blobs["app"] = {str(blob.descriptor.digest): b"stub"}

        assert await write(target_at(registries, registry.url), "app", blob)


async def test_a_registry_with_a_referrers_api_gets_no_tag_for_them() -> None:
    referrer = images.referrer(IMAGE)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.has_referrers = True

        await target_at(registries, registry.url).commit("app", parse_manifest(referrer.content), [])

        assert tags(registry) == set()


async def test_a_registry_without_one_gets_a_tag_that_keeps_what_others_listed() -> None:
    """§1.5."""
    first, second = images.referrer(IMAGE, "application/vnd.one"), images.referrer(IMAGE, "application/vnd.two")
    async with quirky_registry() as registry, registries_for() as registries:
        for referrer in (first, second, first):
            await target_at(registries, registry.url).commit("app", parse_manifest(referrer.content), [])

        _, index = registry.manifests["app"][IMAGE.digest.replace(":", "-")]
        listed = json.loads(index)["manifests"]
        assert [entry["digest"] for entry in listed] == [first.digest, second.digest]
        assert [entry["artifactType"] for entry in listed] == ["application/vnd.one", "application/vnd.two"]


async def test_a_tag_for_referrers_that_is_something_else_is_left_alone() -> None:
    referrer = images.referrer(IMAGE)
    async with quirky_registry() as registry, registries_for() as registries:
        tag = IMAGE.digest.replace(":", "-")
        registry.manifests["app"] = {tag: (OTHER.media_type, OTHER.content)}

        with pytest.raises(SyncerError, match="no index"):
            await target_at(registries, registry.url).commit("app", parse_manifest(referrer.content), [])

        assert registry.manifests["app"][tag] == (OTHER.media_type, OTHER.content)


@pytest.mark.parametrize("subject", [IMAGE, images.multi_platform("several")])
async def test_the_subject_itself_is_no_list_of_its_referrers(subject: Image) -> None:
    """GitLab's registry answers with it for a tag that is not there (oras-project/oras-go#1396)."""
    referrer = images.referrer(subject)
    async with quirky_registry() as registry, registries_for() as registries:
        tag = subject.digest.replace(":", "-")
        registry.manifests["app"] = dict.fromkeys((tag, f"{tag}.sig"), (subject.media_type, subject.content))
        registry.page = 1  # a list of all tags would not have them
        repository = registries.repository(name_at(registry.address, "app"))

        before = await repository.tagged_referrers(Digest.parse(subject.digest))
        found = await registries.referrers(name_at(registry.address, "app"), [Digest.parse(subject.digest)])
        await target_at(registries, registry.url).commit("app", parse_manifest(referrer.content), [])

        assert (before, found.found) == ((), ())
        assert found.doubt is None
        _, index = registry.manifests["app"][tag]
        assert [entry["digest"] for entry in json.loads(index)["manifests"]] == [referrer.digest]


def test_amazons_missing_repository_has_a_command() -> None:
    """§2."""
    host = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
    error = RegistryError("POST x", 404, ["The repository with name 'team/app' does not exist"])

    assert hint_for(host, "team/app", error) == (
        "create it: aws ecr create-repository --region eu-west-1 --repository-name team/app"
    )


async def test_a_space_is_the_repository_that_a_name_lies_in() -> None:
    async with quirky_registry() as registry, registries_for() as registries:
        target = target_at(registries, f"{registry.url}/images")
        name = name_at(registry.address, "images/quay.io/team/app")

        assert target.space(name) == "images/quay.io/team/app"
        await target.commit(target.space(name), MANIFEST, [name])
        assert await target.current(name) == Digest.parse(IMAGE.digest)


async def log_in_page(*_: object) -> web.StreamResponse:
    """What a proxy that wants a login says to everything."""
    return web.Response(text="<html>Log in to the network</html>", content_type="text/html")


def done_with(number: int, *, digest: bool) -> Fault:
    """Do what was asked, and say so by another status, with or without the digest of what was stored."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        headers = {"Docker-Content-Digest": response.headers["Docker-Content-Digest"]} if digest else {}
        return web.Response(status=number, headers=headers)

    return fault


def sent_to(url: str) -> Fault:
    async def fault(request: web.Request, _: Handler) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{url}/login"})

    return fault


@pytest.mark.parametrize("is_elsewhere", [False, True])
async def test_a_page_to_log_in_at_is_no_manifest_that_was_stored(*, is_elsewhere: bool) -> None:
    """The last tag's PUT is answered with status 200, here or where a 307 leads to, and nothing is there."""
    async with quirky_registry() as registry, quirky_registry() as portal, registries_for() as registries:
        portal.on("*", log_in_page, times=99)
        registry.on("PUT manifest", proceed, sent_to(portal.url) if is_elsewhere else log_in_page)
        names = [name_at(registry.address, "app", tag) for tag in ("v1", "v2")]

        with pytest.raises(TargetError, match="200 a web page came, and what was asked for is not done") as caught:
            await target_at(registries, registry.url).commit("app", MANIFEST, names)

        assert tags(registry) == {"v1"}
        assert "want a login" in (caught.value.hint or "")


@pytest.mark.parametrize("number", [200, 202, 204])
async def test_a_manifest_that_is_stored_with_another_status_is_looked_for_once(number: int) -> None:
    """Only 201 says that it was done, and the digest in the answer as well."""
    async with quirky_registry() as registry, registries_for() as registries:
        target, names = target_at(registries, registry.url), [name_at(registry.address, "app")]
        registry.on("PUT manifest", done_with(number, digest=False), done_with(number, digest=True))

        await target.commit("app", MANIFEST, names)
        assert list(map(str, registry.seen)) == [f"PUT manifest {number}", "HEAD manifest 200"]

        await target.commit("app", MANIFEST, names)
        assert list(map(str, registry.seen))[2:] == [f"PUT manifest {number}"]


async def test_another_manifest_under_the_tag_is_no_evidence() -> None:
    """A push that was accepted and not done left the tag at what it was."""
    other = images.image("other")
    async with quirky_registry() as registry, registries_for() as registries:
        registry.manifests["app"] = {"v1": (other.media_type, other.content)}
        registry.on("PUT manifest", status_only(202))

        with pytest.raises(TargetError, match="202 what was asked for is not done"):
            await target_at(registries, registry.url).commit("app", MANIFEST, [name_at(registry.address, "app")])


def status_only(number: int) -> Fault:
    async def fault(*_: object) -> web.StreamResponse:
        return web.Response(status=number)

    return fault


async def test_a_page_to_log_in_at_is_no_blob_that_is_there() -> None:
    """HEAD is answered with status 200 and no length: the blob is sent."""

    async def page(*_: object) -> web.StreamResponse:
        return web.Response(headers={"Content-Type": "text/html", "Transfer-Encoding": "chunked"})

    blob = blob_of(images.noise("page", 5 << 20))
    async with quirky_registry() as registry, registries_for() as registries:
        registry.on("HEAD blob", page)

        assert await write(target_at(registries, registry.url), "app", blob)
        assert str(blob.descriptor.digest) in registry.blobs["app"]


async def test_a_blob_named_by_sha512_is_sent_and_not_mounted() -> None:
    """Distribution 2.8 says 201 to such a mount, and answers 500 for the blob from then on."""
    content = images.noise("sha512", 1000)
    blob = blob_of(content, "sha512")
    digest = str(blob.descriptor.digest)
    async with quirky_registry() as registry, registries_for() as registries:
        registry.blobs["one"] = {digest: content}
        registry.on("POST start", status_only(201))  # of a mount; an upload needs 202
        target = target_at(registries, registry.url)

        assert not await target.mount("two", blob.descriptor, "one")
        assert not registry.seen
