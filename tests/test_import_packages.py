"""Packages and locks of other tools (hauler, oc-mirror, imgpkg, dt) become a sync file that means the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncer.errors import InvalidFile
from syncer.oci import Reference
from syncer.profiles.imports.importers import ImportResult
from syncer.profiles.syncfile.sync_file import parse_sync_file
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.programs import run
from tests.test_import_files import DIGEST, imported, read, sources


def refusals(result: ImportResult) -> list[str]:
    """What could not be carried over, without the path of the file."""
    return [line.partition("theirs.yaml:")[2] for line in result.refusals]


HAULER = f"""\
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata:
  name: some-images
  annotations:
    hauler.dev/platform: linux/arm64
    hauler.dev/registry: registry.example.org
spec:
  images:
    - name: docker.io/library/busybox
      platform: linux/amd64
    - name: gcr.io/distroless/base@{DIGEST}
      exclude-extras: true
    - name: team/app:v1
      rewrite: apps/app:v2
      ca-file: ca.pem
---
apiVersion: content.hauler.cattle.io/v1
kind: Charts
metadata: {{name: some-charts}}
spec:
  charts:
    - name: rancher
      repoURL: https://releases.example.com/stable
      version: 2.10
    - name: hauler-helm
      repoURL: oci://ghcr.io/hauler-dev
---
apiVersion: content.hauler.cattle.io/v1
kind: ImageTxts
spec:
  imageTxts:
    - ref: more-images.txt
"""


def test_hauler(tmp_path: Path) -> None:
    result = imported(tmp_path, HAULER, registry="t.io")
    file = read(result)

    assert (result.format, result.refusals) == ("hauler", ())
    assert sources(result) == [
        "docker.io/library/busybox:latest",
        f"gcr.io/distroless/base@{DIGEST}",
        "registry.example.org/team/app:v1 as apps/app:v2",
        "https://releases.example.com/stable rancher 2.10",
        "oci://ghcr.io/hauler-dev hauler-helm None",
        "more-images.txt",
    ]
    assert [str(platform) for source in file.sources[:2] for platform in file.platforms_of(source)] == [
        "linux/amd64",
        "linux/arm64",
    ]
    assert not file.referrers_of(file.sources[1])
    assert str(file.document.registries["registry.example.org"].ca_cert) == "ca.pem"


def test_what_hauler_can_and_syncer_cannot_is_refused_by_field(tmp_path: Path) -> None:
    text = """\
apiVersion: content.hauler.cattle.io/v1
kind: Files
spec:
  files: [{path: https://get.example.com, name: install.sh}, {path: ./here.sh}, {name: x}]
---
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata: {annotations: {hauler.dev/key: cosign.pub, hauler.dev/use-tlog-verify: "true"}}
spec:
  images:
    - {name: busybox, key: cosign.pub, use-tlog-verify: true}
    - {name: here, local: true}
    - {name: "a@sha256:1111111111111111111111111111111111111111111111111111111111111111", rewrite: b}
---
apiVersion: content.hauler.cattle.io/v1
kind: Charts
spec:
  charts:
    - {name: a, repoURL: https://charts.example.com, add-images: true, add-dependencies: true, rewrite: b}
    - {name: ./b}
    - {name: c, repoURL: https://charts.example.com, usernameEnv: USER, verify: true}
---
apiVersion: content.hauler.cattle.io/v1
kind: ImageTxts
spec:
  imageTxts: [{ref: all.txt, sources: {include: [a.io]}}]
---
apiVersion: content.hauler.cattle.io/v1
kind: K3s
"""
    result = imported(tmp_path, text, registry="t.io")
    archive = "only the archive of a chart is mirrored, with the dependencies inside it"
    verified = "signatures are copied with their images, and are not verified"

    assert refusals(result) == [
        "4: spec.files[1].path: ./here.sh is a file of this machine, and no server has it",
        "4: spec.files[2].path: it is required",
        f"8: metadata.annotations.hauler.dev/key: {verified}",
        f"8: metadata.annotations.hauler.dev/use-tlog-verify: {verified}",
        f"11: spec.images[0].key: {verified}",
        f"11: spec.images[0].use-tlog-verify: {verified}",
        "12: spec.images[1].local: an image of this machine's Docker is in no registry; push it to one first",
        "13: spec.images[2].rewrite: an image with a digest needs a tag in its new name",
        f"19: spec.charts[0].add-dependencies: {archive}",
        "19: spec.charts[0].rewrite: a chart keeps its name",
        "20: spec.charts[1].repoURL: only charts in repositories are mirrored",
        "21: spec.charts[2].verify: a chart's provenance is not verified",
        "21: spec.charts[2].usernameEnv: usernameEnv and passwordEnv go together",
        "26: spec.imageTxts[0].sources.include: a list is taken as a whole, so this one is left out",
        "29: kind: hauler has no such kind 'K3s'; known: Images, Charts, ThickCharts, Files, ImageTxts",
    ]
    assert sources(result) == [
        "https://get.example.com install.sh",
        "docker.io/library/busybox:latest",
        "https://charts.example.com a None",
        "https://charts.example.com c None",
    ]


def test_a_documents_annotations_hold_for_its_images(tmp_path: Path) -> None:
    text = """\
apiVersion: content.hauler.cattle.io/v1
kind: Images
metadata:
  annotations:
    hauler.dev/retries: "5"
    hauler.dev/store: other
    hauler.dev/registry: r.example.com
    hauler.dev/insecure-skip-tls-verify: "true"
    hauler.dev/exclude-extras: "true"
    hauler.dev/ca-file: ca.pem
    hauler.dev/rewrite: never-read
    example.com/owner: me
spec:
  images: [{name: app}, {name: "team/app:v1"}, {name: "localhost/app:v1"}, {name: "q.io/a/b:1", rewrite: "w.io/c/d"}]
"""
    result = imported(tmp_path, text, registry="t.io")
    file = read(result)

    assert refusals(result) == []
    assert sources(result) == [
        "r.example.com/library/app:latest",
        "r.example.com/team/app:v1",
        "localhost/app:v1",
        "q.io/a/b:1 as c/d",
    ]
    assert [file.referrers_of(source) for source in file.sources] == [False] * 4
    settings = file.document.registries["r.example.com"]
    assert (settings.insecure, str(settings.ca_cert)) == (True, "ca.pem")
    for noted in ("retries", "store", "hauler.dev/rewrite"):
        assert f"# {noted}: " in result.text


def test_the_images_of_haulers_charts_are_asked_for(tmp_path: Path) -> None:
    text = """\
apiVersion: content.hauler.cattle.io/v1
kind: Charts
metadata: {annotations: {hauler.dev/platform: linux/arm64, hauler.dev/exclude-extras: "true"}}
spec:
  charts:
    - {name: a, repoURL: https://charts.example.com, add-images: true, valuesFiles: [v.yaml]}
    - {name: b, repoURL: https://charts.example.com, add-images: true, platform: linux/amd64}
    - {name: c, repoURL: https://charts.example.com}
---
apiVersion: content.hauler.cattle.io/v1
kind: Charts
metadata: {annotations: {hauler.dev/registry: r.example.com}}
spec: {charts: [{name: d, repoURL: "https://charts.example.com", add-images: true}]}
---
apiVersion: collection.hauler.cattle.io/v1
kind: ThickCharts
spec: {charts: [{name: e, repoURL: "https://charts.example.com"}]}
"""
    result = imported(tmp_path, text, registry="t.io")
    found = [(source.chart, source.platforms, source.referrers) for source in read(result).sources]

    assert [chart.scan for chart, _, _ in found if chart] == [True, True, False, False, True]
    assert [list(map(str, chart.values_files)) for chart, _, _ in found[:1] if chart] == [["v.yaml"]]
    assert [list(map(str, platforms or ())) for _, platforms, _ in found] == [
        ["linux/arm64"],
        ["linux/amd64"],
        [],
        [],
        [],
    ]
    assert [referrers for _, _, referrers in found] == [False, False, None, None, None]
    why = "hauler.dev/registry is not put before the images of a chart: list them in an images_file"
    assert refusals(result) == [f"13: spec.charts[0].add-images: {why}"]


def test_hauler_finds_its_fields_by_any_case_and_skips_documents_of_other_kinds(tmp_path: Path) -> None:
    text = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
---
apiversion: content.hauler.cattle.io/v1
Kind: Images
SPEC:
  Images:
    - Name: quay.io/team/app:v1
      PLATFORM: linux/amd64
      platfrom: linux/arm64
"""
    result = imported(tmp_path, text, registry="t.io")

    assert refusals(result) == []
    assert sources(result) == ["quay.io/team/app:v1"]
    assert [str(platform) for platform in read(result).sources[0].platforms or ()] == ["linux/amd64"]
    assert "# A document of another kind (ConfigMap) was left out, as hauler skips it." in result.text
    assert "# spec.images[0].platfrom was left out: hauler does not know it either." in result.text


def test_a_chart_of_haulers_has_its_login_and_its_certificates(tmp_path: Path) -> None:
    text = """\
apiVersion: content.hauler.cattle.io/v1
kind: Charts
metadata: {annotations: {hauler.dev/ca-file: all.pem}}
spec:
  charts:
    - name: app
      repoURL: https://charts.example.com:8443/stable
      usernameEnv: CHART_USER
      passwordEnv: CHART_PASSWORD
      certFile: me.pem
      keyFile: me.key
    - {name: other, repoURL: "oci://r.example.com/charts", plainHTTP: true, caFile: own.pem, keyring: x, platform: 386}
"""
    result = imported(tmp_path, text, registry="t.io")
    registries = read(result).document.registries
    app, other = registries["charts.example.com:8443"], registries["r.example.com"]

    assert refusals(result) == []
    assert app.credentials is not None
    assert (app.credentials.username_env, app.credentials.password_env) == ("CHART_USER", "CHART_PASSWORD")
    assert [str(path) for path in (app.ca_cert, app.client_cert, app.client_key)] == ["all.pem", "me.pem", "me.key"]
    assert (other.plain_http, str(other.ca_cert)) == (True, "own.pem")


async def test_the_images_are_those_that_hauler_takes(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    """The real program stores the same images and files; what it chose is written down for where it is missing."""
    async with debian_registry("source") as source:
        for repository in ("library/app", "team/app", "other/app"):
            await client.push(source, repository, images.image(repository), "latest", "v1")
        text = f"""\
apiVersion: v1
kind: ConfigMap
---
apiversion: content.hauler.cattle.io/v1
kind: Images
metadata: {{annotations: {{hauler.dev/registry: "{source.address}", hauler.dev/store: other-store}}}}
spec:
  Images:
    - name: app
    - Name: team/app:v1
    - name: {source.address}/other/app@{images.image("other/app").digest}
      unheard: of
"""
        (tmp_path / "theirs.yaml").write_text(text)

        taken = sources(imported(tmp_path, text, registry="t.io"))

        recorded = ["library/app:latest", "other/app@" + images.image("other/app").digest, "team/app:v1"]
        if shutil.which("hauler"):
            store, at_home = str(tmp_path / "store"), {"HAULER_DIR": str(tmp_path / "hauler")}
            synced = await run(
                "hauler", "store", "sync", "-f", str(tmp_path / "theirs.yaml"), "--store", store, **at_home
            )
            assert synced.code == 0, synced.stdout + synced.stderr
            told = await run("hauler", "store", "info", "-o", "json", "--store", store, **at_home)
            stored = [row["reference"] for row in json.loads(told.stdout)["artifacts"]]
            assert sorted(name.removeprefix(f"{source.address}/") for name in stored) == recorded
        assert sorted(name.removeprefix(f"{source.address}/") for name in taken) == recorded


IMAGESET = f"""\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
archiveSize: 4
mirror:
  additionalImages:
    - name: registry.redhat.io/ubi9/ubi:latest
    - name: docker://quay.io/team/app@{DIGEST}
      targetRepo: apps/app
      targetTag: v1
      platforms:
        - {{os: linux, architecture: amd64}}
    - name: quay.io/team/tool:v3
      targetTag: stable
    - name: docker.io/library/alpine:3
  blockedImages:
    - name: alpine
  helm:
    repositories:
      - name: podinfo
        url: https://stefanprodan.github.io/podinfo
        charts:
          - {{name: podinfo, version: 5.0.0}}
"""


def test_imageset(tmp_path: Path) -> None:
    result = imported(tmp_path, IMAGESET, registry="t.io")
    file = read(result)

    assert result.format == "ImageSetConfiguration"
    assert refusals(result) == []
    assert read(result).sources[3].chart.scan  # type: ignore[union-attr]
    assert sources(result) == [
        "registry.redhat.io/ubi9/ubi:latest",
        f"quay.io/team/app@{DIGEST} as apps/app:v1",
        "quay.io/team/tool:v3 as quay.io/team/tool:stable",
        "https://stefanprodan.github.io/podinfo podinfo 5.0.0",
    ]
    assert [str(platform) for platform in file.platforms_of(file.sources[1])] == ["linux/amd64"]
    assert "# docker.io/library/alpine:3 was left out: blockedImages names it." in result.text


def test_what_needs_openshifts_services_is_refused_by_field(tmp_path: Path) -> None:
    text = """\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  platform:
    channels: [{name: stable-4.18}]
  operators:
    - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.18
  additionalImages: [{name: quay.io/a/b:1}]
  helm:
    local: [{name: c, path: /charts/c.tgz}]
"""
    refused = refusals(imported(tmp_path, text, registry="t.io"))
    assert [line.partition(":")[2].strip().partition(":")[0] for line in refused] == [
        "mirror.platform",
        "mirror.operators",
        "mirror.helm.local",
    ]
    with pytest.raises(InvalidFile, match=r"theirs.yaml:2: kind: DeleteImageSetConfiguration"):
        imported(tmp_path, "apiVersion: mirror.openshift.io/v2alpha1\nkind: DeleteImageSetConfiguration\n")


def test_a_chart_repository_without_charts_is_refused_since_it_means_all_of_them(tmp_path: Path) -> None:
    text = """\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  additionalImages: [{name: quay.io/team/app:v1}, {name: quay.io/team/app}]
  helm:
    repositories:
      - {name: all, url: https://charts.example.com}
      - {name: none, url: https://charts.example.com, charts: []}
      - {name: nowhere, charts: [{name: a}]}
"""
    result = imported(tmp_path, text, registry="t.io")

    assert sources(result) == ["quay.io/team/app:v1"]
    assert refusals(result) == [
        "4: mirror.additionalImages[1].name: oc-mirror takes no image without a tag or a digest",
        (
            "7: mirror.helm.repositories[0].charts: without it oc-mirror takes every chart of the repository, in each "
            "version, and the images in them; name the charts"
        ),
        "9: mirror.helm.repositories[2].url: it is required",
    ]


def test_an_imagesets_fields_are_found_by_any_case(tmp_path: Path) -> None:
    text = """\
apiVersion: mirror.openshift.io/v1alpha2
kind: ImageSetConfiguration
mirror:
  additionalimages:
    - name: quay.io/team/app:v1
    - Name: quay.io/blocked/app:v1
    - {name: quay.io/a/b:v1, targetrepo: blocked/b}
  blockedImages: [{name: "blocked/.*"}]
"""
    result = imported(tmp_path, text, registry="t.io")

    assert (refusals(result), sources(result)) == ([], ["quay.io/team/app:v1"])


def test_an_image_that_may_be_blocked_is_not_mirrored(tmp_path: Path) -> None:
    text = """\
apiVersion: mirror.openshift.io/v2alpha1
kind: ImageSetConfiguration
mirror:
  additionalImages: [{name: "quay.io/team/app:v1"}]
  blockedImages: [{name: "("}]
  helm: {repositories: [{name: c, url: https://charts.example.com, charts: [{name: a}]}]}
"""
    result = imported(tmp_path, text, registry="t.io")

    assert sources(result) == ["https://charts.example.com a None"]
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)[:2]] == [
        "mirror.blockedImages[0].name",
        "mirror.additionalImages[0].name",
    ]


def test_a_mapping_is_the_list_of_images_with_their_places(tmp_path: Path) -> None:
    text = f"""\
docker://registry.redhat.io/ubi9/ubi:latest=docker://m.io:5000/base/ubi9/ubi:latest
docker://quay.io/team/app@{DIGEST}=docker://m.io:5000/base/team/app:v1
docker://quay.io/team/app@{DIGEST}=docker://m.io:5000/base/team/app@{DIGEST}

registry.redhat.io/x/y:v1=file://x/y
quay.io/A/b:v1=m.io:5000/a/b
"""
    result = imported(tmp_path, text)

    assert result.format == "mapping.txt"
    assert sources(result) == [
        "registry.redhat.io/ubi9/ubi:latest as base/ubi9/ubi",
        f"quay.io/team/app@{DIGEST} as base/team/app:v1",
        f"quay.io/team/app@{DIGEST} as base/team/app",
    ]
    assert [target.registry for target in read(result).targets] == ["m.io:5000"]
    assert [line.partition(": ")[0] for line in refusals(result)] == ["5", "6"]


def test_a_line_that_is_wrong_does_not_make_a_list_of_images_of_a_mapping(tmp_path: Path) -> None:
    text = """\
docker://quay.io/team/app:v1=docker://m.io:5000/base/team/app:v1
busybox
docker://quay.io/team/tool:v1=
docker://quay.io/team/other:v1=docker://m.io:5000/base/team/other:v1
"""
    result = imported(tmp_path, text)

    assert result.format == "mapping.txt"
    assert sources(result) == ["quay.io/team/app:v1 as base/team/app", "quay.io/team/other:v1 as base/team/other"]
    assert refusals(result) == ["2: a line is SOURCE=TARGET", "3: a line is SOURCE=TARGET"]


def test_a_mapping_to_oc_mirrors_own_store_goes_where_the_user_says(tmp_path: Path) -> None:
    text = "docker://quay.io/team/app:v1=docker://localhost:55000/team/app:v1\n"
    result = imported(tmp_path, text, registry="t.io/base")

    assert sources(result) == ["quay.io/team/app:v1 as team/app"]
    assert [target.registry for target in read(result).targets] == ["t.io/base"]


MIRROR_SETS = """\
apiVersion: config.openshift.io/v1
kind: ImageDigestMirrorSet
metadata: {name: idms-generic-0}
spec:
  imageDigestMirrors:
  - {source: registry.redhat.io/ubi9, mirrors: [m.io:5000/base/ubi9]}
  - {source: quay.io/team, mirrors: [m.io:5000/team, other.io/team], mirrorSourcePolicy: NeverContactSource}
---
apiVersion: config.openshift.io/v1
kind: ImageTagMirrorSet
spec:
  imageTagMirrors:
  - {source: quay.io/team, mirrors: [m.io:5000/tagged]}
  - {source: "*.redhat.io", mirrors: [m.io:5000/x]}
---
apiVersion: operator.openshift.io/v1alpha1
kind: ImageContentSourcePolicy
spec:
  repositoryDigestMirrors:
  - {source: registry.k8s.io, mirrors: [m.io:5000]}
"""


def test_mirror_sets_become_targets_with_names_and_the_sources_are_asked_for(tmp_path: Path) -> None:
    result = imported(tmp_path, MIRROR_SETS)

    assert [line.rpartition("theirs.yaml")[2] for line in result.refusals] == [
        ":14: spec.imageTagMirrors[1].source: a rule for names begins with a whole host, not with *",
        ": it says where images are found, and not which: add `sources` to the new file",
    ]
    file = parse_sync_file(f"sources: [{{image: quay.io/team/app:v1}}]\n{result.text}", Path("sync.yaml"))
    app, ubi = Reference.parse("quay.io/team/app:v1"), Reference.parse("registry.redhat.io/ubi9/ubi:1")
    landing = {
        target.title: str(file.item(file.sources[0], app, target, registry=target.registry, base="").target)
        for target in file.targets
    }
    assert landing == {
        "mirror-1": "m.io:5000/team/app:v1",
        "other.io": "other.io/team/app:v1",
        "mirror-3": "m.io:5000/tagged/app:v1",
    }
    first = file.targets[0]
    assert (
        str(file.item(file.sources[0], ubi, first, registry="m.io:5000", base="").target) == "m.io:5000/base/ubi9/ubi:1"
    )
    k8s = Reference.parse("registry.k8s.io/pause:3")
    assert str(file.item(file.sources[0], k8s, first, registry="m.io:5000", base="").target) == "m.io:5000/pause:3"


def test_the_locks_of_imgpkg(tmp_path: Path) -> None:
    text = f"""\
---
apiVersion: imgpkg.carvel.dev/v1alpha1
kind: ImagesLock
images:
  - image: index.docker.io/team/app@{DIGEST}
    annotations:
      kbld.carvel.dev/id: team/app:v1
"""
    result = imported(tmp_path, text, ".imgpkg-images.yml", registry="t.io")
    assert (result.format, result.refusals) == ("imgpkg", ())
    assert sources(result) == [f"docker.io/team/app@{DIGEST}"]
    assert read(result).sources[0].imgpkg

    bundle = f"""\
apiVersion: imgpkg.carvel.dev/v1alpha1
kind: BundleLock
bundle:
  image: quay.io/team/bundle@{DIGEST}
  tag: v1
"""
    result = imported(tmp_path, bundle, registry="t.io")
    assert sources(result) == [f"quay.io/team/bundle:v1@{DIGEST}"]
    assert read(result).sources[0].imgpkg

    with pytest.raises(InvalidFile, match=r"kind: imgpkg has no such kind 'OtherLock'"):
        imported(tmp_path, text.replace("ImagesLock", "OtherLock"), registry="t.io")
    with pytest.raises(InvalidFile, match=r"theirs.yaml:5: images\[0\].image: a lock must name"):
        imported(tmp_path, text.replace(f"@{DIGEST}", ":v1"), registry="t.io")


CHART_LOCK = f"""\
apiVersion: v0
kind: ImagesLock
metadata: {{generatedAt: "2024-02-01", generatedBy: Distribution Tooling for Helm}}
chart: {{name: app, version: 1.0.0, appVersion: "2"}}
images:
  - name: app
    image: docker.io/team/app:v1
    chart: app
    digests:
      - {{digest: "{DIGEST}", arch: linux/amd64}}
  - name: tool
    image: quay.io/team/tool:v2
    chart: app
    digests:
      - {{digest: "{DIGEST}", arch: linux/amd64}}
      - {{digest: "{DIGEST}", arch: linux/arm64}}
  - {{name: none, image: "quay.io/team/none:v2", chart: app, digests: []}}
  - name: wrong
    image: quay.io/team/wrong:v2
    digests: [{{digest: "sha256:1", arch: linux/amd64}}, {{arch: amd64}}]
"""


def test_the_lock_of_a_chart(tmp_path: Path) -> None:
    result = imported(tmp_path, CHART_LOCK, registry="t.io")
    file = read(result)

    assert result.format == "Images.lock"
    assert sources(result) == [f"docker.io/team/app:v1@{DIGEST}", "quay.io/team/tool:v2"]
    assert [str(platform) for platform in file.sources[1].platforms or ()] == ["linux/amd64", "linux/arm64"]
    assert "their digests in the lock are not compared" in result.text
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)] == [
        "images[2].digests",
        "images[3].digests[0].digest",
        "images[3].digests[1].digest",
    ]


ZARF = f"""\
apiVersion: zarf.dev/v1alpha1
kind: ZarfPackageConfig
metadata: {{name: app, version: 1.0.0, architecture: arm64}}
x-untar: &anchor {{}}
components:
  - name: app
    required: true
    charts:
      - {{name: app, version: 1.0.0, url: oci://registry.example.com/charts/app, namespace: a, valuesFiles: [v.yaml]}}
      - {{name: shown, repoName: web, version: 2.0.0, url: https://charts.example.com}}
      - {{name: here, localPath: ./chart}}
      - {{name: git, url: "https://git.example.com/x.git@v1", gitPath: chart}}
    images:
      - quay.io/team/app:v1
      - quay.io/team/index@{DIGEST}
      - quay.io/team/tool:v1-###ZARF_PKG_ARCH###
      - quay.io/team/other:###ZARF_PKG_TMPL_TAG###
    files:
      - {{source: https://download.example.com/tool, target: /usr/bin/tool, shasum: abc, executable: true}}
      - {{source: tool.sh, target: /x}}
    manifests: [{{name: m, files: [m.yaml]}}]
    repos: ["https://git.example.com/x.git"]
    imageArchives: [{{path: a.tar, images: [b]}}]
    actions: {{onCreate: {{before: [{{cmd: "true"}}]}}}}
    surprise: 1
  - {{name: wide, only: {{cluster: {{architecture: amd64, distros: [k3s]}}}}, images: ["quay.io/team/amd64:v1"]}}
  - {{name: iron, only: {{flavor: registry1, localOS: linux}}, images: ["quay.io/team/flavored:v1"]}}
  - {{name: theirs, import: {{path: ../other}}, images: ["quay.io/team/own:v1"]}}
"""


def test_zarf(tmp_path: Path) -> None:
    result = imported(tmp_path, ZARF, registry="t.io")
    file = read(result)

    assert result.format == "zarf"
    assert sources(result) == [
        "quay.io/team/app:v1",
        f"quay.io/team/index@{DIGEST}",
        "quay.io/team/tool:v1-arm64",
        "oci://registry.example.com/charts app 1.0.0",
        "https://charts.example.com web 2.0.0",
        "https://download.example.com/tool None",
        "quay.io/team/own:v1",
    ]
    assert [[str(platform) for platform in source.platforms or ()] for source in file.sources[:3]] == [
        ["linux/arm64"],
        [],
        ["linux/arm64"],
    ]
    assert refusals(result) == [
        "17: components[0].images[3]: zarf asks for the value of TAG at the creation: write it here",
        "11: components[0].charts[2].localPath: a chart on this disk is in no repository",
        "12: components[0].charts[3].url: a chart in a Git repository is in no chart repository",
        "20: components[0].files[1].source: tool.sh is a file of this machine, and no server has it",
        "21: components[0].manifests: manifests are no images; list the images in them under images",
        "22: components[0].repos: Git repositories are no images",
        "23: components[0].imageArchives: images in an archive of this disk are in no registry: push it",
        "25: components[0].surprise: syncer does not know this field",
        (
            "27: components[2].only.flavor: iron is of the flavor registry1, which `zarf package create` takes only if "
            "told"
        ),
        "28: components[3].import.path: what another zarf.yaml or package lists is not read: import that file too",
    ]
    assert "# wide was left out: it is for amd64, and the package is for arm64." in result.text


def test_zarfs_second_version(tmp_path: Path) -> None:
    text = """\
apiVersion: zarf.dev/v1beta1
kind: ZarfPackageConfig
metadata: {name: app}
components:
  - name: app
    optional: true
    selector: {architecture: amd64}
    images: [{name: "quay.io/team/app:v1"}, {name: "here:v1", source: daemon}]
    charts:
      - {name: a, helmRepository: {name: web, url: https://charts.example.com, version: 1.0.0}}
      - {name: b, oci: {url: oci://registry.example.com/charts/b, ref: {tag: 2.0.0}}}
      - {name: c, local: {path: ./c}}
    repositories: [{url: https://git.example.com/x.git}]
    import: {remote: [{url: oci://registry.example.com/component}]}
"""
    result = imported(tmp_path, text, registry="t.io")

    assert sources(result) == [
        "quay.io/team/app:v1",
        "https://charts.example.com web 1.0.0",
        "oci://registry.example.com/charts b 2.0.0",
    ]
    assert [str(platform) for platform in read(result).sources[0].platforms or ()] == ["linux/amd64"]
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)] == [
        "components[0].import.remote",
        "components[0].images[1].source",
        "components[0].charts[2].local",
        "components[0].repositories",
    ]


def test_what_zarf_does_not_take_is_not_left_out_in_silence(tmp_path: Path) -> None:
    text = """\
kind: ZarfPackageConfig
components:
  - images: quay.io/team/app:v1
  - charts: [{name: a, version: 1.0.0}, {name: b, oci: {ref: {tag: 1.0.0}}}, {name: c, helmRepository: {version: 1}}]
  - images: {quay.io/team/app: v1}
    import: {path: ../other}
    charts: [{name: d, version: 1.0.0}]
"""
    with pytest.raises(InvalidFile) as caught:
        imported(tmp_path, text, registry="t.io")

    wrong = [str(each).rpartition(".yaml:")[2] for each in (caught.value, *caught.value.more)]
    assert wrong == [
        "3: components[0].images: it must be a list",
        "4: components[1].charts[0].url: it is required",
        "4: components[1].charts[1].oci.url: it is required",
        "4: components[1].charts[2].helmRepository.url: it is required",
        "5: components[2].images: it must be a list",
        "6: components[2].import.path: what another zarf.yaml or package lists is not read: import that file too",
    ]


HELMFILE = f"""\
repositories:
  - {{name: web, url: https://charts.example.com, username: me, password: hunter2, caFile: ca.pem}}
  - {{name: reg, url: registry.example.com/charts, oci: true, plainHttp: true}}
  - {{name: acr, managed: acr}}
---
helmDefaults: {{devel: true, wait: true, timeout: 600}}
environments: {{default: {{values: [x.yaml]}}}}
templates:
  usual: &usual {{chart: web/usual, version: 1.0.0, namespace: n}}
bases: [more.yaml]
helmfiles: [{{path: sub/helmfile.yaml}}]
lockFilePath: helmfile.lock
releases:
  - {{name: a, chart: web/app, version: ~1.2, devel: false, values: [v.yaml], needs: [b], createNamespace: true}}
  - {{name: b, chart: web/tool}}
  - {{name: c, chart: reg/team/c, version: 2.0.0}}
  - {{name: d, chart: "oci://other.example.com/charts/d:3.0.0"}}
  - {{name: e, chart: "oci://other.example.com/charts/e@{DIGEST}", version: 3.0.0}}
  - {{name: f, inherit: [{{template: usual, except: [namespace]}}], version: 1.1.0}}
  - {{name: g, chart: "https://charts.example.com/g-1.0.0.tgz"}}
  - {{name: h, chart: ./charts/h}}
  - {{name: i, chart: unknown/i}}
  - {{name: j, chart: acr/j}}
  - {{name: k, chart: web/k, installed: false}}
  - {{name: l, chart: web/l, condition: l.enabled}}
  - {{name: m, chart: web/m, installed: "{{{{ .Values.m }}}}"}}
  - {{name: n, chart: web/n, version: "{{{{ .Values.n }}}}"}}
  - {{name: o, chart: reg/o, version: latest}}
  - {{name: p, chart: web/p, version: 1.0.0, dependencies: [{{chart: web/q, version: 1.0.0}}], surprise: 1}}
  - {{name: q, inherit: [{{template: nowhere}}]}}
  - {{name: r}}
"""


def test_helmfile(tmp_path: Path) -> None:
    result = imported(tmp_path, HELMFILE, registry="t.io")
    registries = read(result).document.registries
    login = registries["charts.example.com"].credentials

    assert result.format == "helmfile"
    assert sources(result) == [
        "https://charts.example.com app ~1.2",
        "https://charts.example.com tool >0.0.0-0",
        "oci://registry.example.com/charts team/c 2.0.0",
        "oci://other.example.com/charts d 3.0.0",
        f"other.example.com/charts/e:3.0.0@{DIGEST}",
        "https://charts.example.com usual 1.1.0",
        "https://charts.example.com/g-1.0.0.tgz g-1.0.0.tgz None",
        "https://charts.example.com p 1.0.0",
    ]
    assert login is not None
    assert (login.username, login.password_env) == ("me", "CHARTS_EXAMPLE_COM_PASSWORD")
    assert "hunter2" not in result.text
    assert registries["registry.example.com"].plain_http
    assert str(registries["charts.example.com"].ca_cert) == "ca.pem"
    assert [line.partition(": ")[2].partition(": ")[0] for line in refusals(result)] == [
        "repositories[2].managed",
        "bases",
        "helmfiles",
        "releases[7].chart",
        "releases[8].chart",
        "releases[9].chart",
        "releases[11].condition",
        "releases[12].installed",
        "releases[13].version",
        "releases[14].version",
        "releases[15].dependencies",
        "releases[15].surprise",
        "releases[16].inherit",
        "releases[17].chart",
    ]
    for noted in ("Images: a helmfile names charts only", "k was left out", "lockFilePath: "):
        assert f"# {noted}" in result.text


def test_a_helmfile_that_is_still_a_template_is_named_as_such(tmp_path: Path) -> None:
    text = "releases:\n{{- range .Values.apps }}\n  - name: {{ . }}\n    chart: web/{{ . }}\n{{- end }}\n"
    with pytest.raises(InvalidFile, match=r"theirs.yaml:3: it is a helmfile that is still to be filled in") as raised:
        imported(tmp_path, text, registry="t.io")
    assert raised.value.hint == "import what `helmfile build` prints"
