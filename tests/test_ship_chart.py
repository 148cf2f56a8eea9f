"""The Helm chart: its values are checked, what it renders is Kubernetes', has no rights and no logins, and runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import syncer as package
from syncer.profiles.syncfile.sites import read_sites
from syncer.profiles.syncfile.sync_file import read_sync_file
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, syncer
from tests.support.programs import needs_built
from tests.test_distribution import ROOT, instructions

pytestmark = pytest.mark.ship

CHART = ROOT / "charts/syncer"
IMAGE = {"repository": "registry.example.com:5000/tools/oci-syncer"}
SYNC = {"enabled": True, "config": "sources:\n  - image: quay.io/a/b:1\ntargets:\n  - registry: t.example.com/m\n"}
FLEET = {"enabled": True, "bundle": "edge.tar.zst", "targets": {"targets": [{"registry": "10.0.0.4:8000/images"}]}}
ALL: dict[str, Any] = {
    "image": IMAGE,
    "imagePullSecrets": [{"name": "pull"}],
    "logins": {"registry": "registry", "files": ["harbor.example"], "environment": ["variables"], "authorities": "ca"},
    "environment": {"HTTPS_PROXY": "http://proxy:3128"},
    "labels": {"team": "edge"},
    "annotations": {"note": "ours"},
    "sync": SYNC | {"timeZone": "Europe/Berlin", "files": {"images.txt": "busybox:1\n"}, "args": ["--recheck"]},
    "fleet": FLEET | {"existingClaim": "bundles", "activeDeadlineSeconds": 3600},
    "serve": {
        "enabled": True,
        "bundle": "/bundles/edge.tar.zst",
        "existingBundleClaim": "bundles",
        "htpasswdSecret": "passwords",
        "tlsSecret": "tls",
        "service": {"annotations": {"note": "the service's"}},
    },
    "metrics": {"enabled": True, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "to": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    "nodeSelector": {"disk": "large"},
    "tolerations": [{"key": "edge", "operator": "Exists"}],
    "priorityClassName": "low",
}
CASES = {
    "nothing": {},
    "sync": {"image": IMAGE, "sync": SYNC},
    "sync without a volume": {"image": IMAGE, "sync": SYNC, "state": {"enabled": False}},
    "fleet": {"image": IMAGE, "fleet": FLEET},
    "serve": {"image": IMAGE, "serve": {"enabled": True}},
    "serve with TLS": {"image": IMAGE, "serve": {"enabled": True, "tlsSecret": "tls"}},
    "all": ALL,
}


def helm(command: str, values: Any, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (file := tmp_path / "values.json").write_text(json.dumps(values))
    words = [needs_built("helm"), command, *options, str(CHART), "--values", str(file)]
    return subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path)


def render(values: Any, tmp_path: Path, kubernetes: str = "1.33.0") -> list[dict[str, Any]]:
    options = ("--kube-version", kubernetes, "--namespace", "mirror", "--name-template", "night")
    rendered = helm("template", values, tmp_path, *options)
    assert rendered.returncode == 0, rendered.stderr
    assert "warning" not in rendered.stderr.lower()
    return [document for document in yaml.safe_load_all(rendered.stdout) if document]


def of_kind(documents: list[dict[str, Any]], kind: str, part: str) -> dict[str, Any]:
    (found,) = (
        one for one in documents if one["kind"] == kind and one["metadata"]["name"].startswith(f"night-syncer-{part}")
    )
    return found


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The specification of each pod, with the kind of object that makes it."""
    for document in documents:
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", {}).get("template") or spec.get("template")
        if template:
            yield document["kind"], template["spec"]


@pytest.mark.parametrize("name", CASES)
def test_helm_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    linted = helm("lint", CASES[name], tmp_path, "--strict", "--kube-version", "1.33.0")

    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("kubernetes", ["1.25", "1.29", "1.33", "1.35"])
@pytest.mark.parametrize("name", CASES)
def test_what_it_renders_is_kubernetes(name: str, kubernetes: str, tmp_path: Path) -> None:
    """By the schemas of that version, which know each field, and which know no other one."""
    validate = pytest.importorskip("kubernetes_validate").validate

    for document in render(CASES[name], tmp_path, f"{kubernetes}.0"):
        if document["kind"] != "ServiceMonitor":  # of Prometheus' operator
            validate(document, kubernetes, strict=True)
        assert document["metadata"]["namespace"] == "mirror"


def test_names_belong_to_one_object_each_and_volumes_to_mounts(tmp_path: Path) -> None:
    documents = render(ALL, tmp_path)
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]

    assert len(names) == len(set(names)) == 15
    for _, pod in pods(documents):
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert volumes == {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert all("." not in volume and len(volume) <= 63 for volume in volumes)
        for volume in pod["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim in {None, "bundles"} or ("PersistentVolumeClaim", claim) in names


def test_no_pod_has_rights(tmp_path: Path) -> None:
    found = list(pods(render(ALL, tmp_path)))

    assert sorted(kind for kind, _ in found) == ["CronJob", "Deployment", "Deployment", "Job"]
    for _, pod in found:
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"limits", "requests"}


def test_the_pods_run_in_the_image_of_this_version_as_its_user(tmp_path: Path) -> None:
    for _, pod in pods(render({"image": IMAGE, "sync": SYNC, "fleet": FLEET, "serve": {"enabled": True}}, tmp_path)):
        (container,) = pod["containers"]
        user = pod["securityContext"]

        assert container["image"] == f"{IMAGE['repository']}:{package.__version__}"
        assert instructions("USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]
        assert {"name": "HOME", "value": "/var/lib/syncer"} in container["env"]
        assert "/var/lib/syncer" in {mount["mountPath"] for mount in container["volumeMounts"]}


async def test_every_command_of_a_pod_is_one_that_syncer_knows(tmp_path: Path) -> None:
    """Unknown flags, and flags without their values, are told before the help is."""
    for _, pod in pods(render(ALL, tmp_path)):
        (container,) = pod["containers"]
        if container["name"] == "syncer":
            helped = await syncer(*container["args"], "--help", home=tmp_path)
            assert helped.code == 0, helped.stderr


def test_a_digest_beats_a_tag(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    ((_, pod),) = pods(render({"image": IMAGE | {"tag": "x", "digest": digest}, "sync": SYNC}, tmp_path))

    assert pod["containers"][0]["image"] == f"{IMAGE['repository']}@{digest}"


def test_logins_are_named_and_nowhere_written(tmp_path: Path) -> None:
    """They are in Secrets that the chart does not make: as files, and variables for those who log in somewhere."""
    documents = render(ALL, tmp_path)

    assert not [one for one in documents if one["kind"] == "Secret"]
    by_kind = {kind: pod for kind, pod in pods(documents) if pod["containers"][0]["name"] == "syncer"}
    for kind, pod in by_kind.items():
        (container,) = pod["containers"]
        secrets = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        variables = [one["secretRef"]["name"] for one in container.get("envFrom", ())]
        serving = kind == "Deployment"
        assert secrets == ({"passwords", "tls"} if serving else {"registry", "harbor.example"})
        assert variables == ([] if serving else ["variables"])
        assert all(set(variable) == {"name", "value"} for variable in container["env"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sync": SYNC}, "image.repository"),
        ({"image": IMAGE, "sync": {"enabled": True}}, "sync.config"),
        ({"image": IMAGE, "fleet": {"enabled": True, "bundle": "b"}}, "fleet.targets"),
        ({"image": IMAGE, "fleet": {"enabled": True, "targets": "x"}}, "fleet.bundle"),
        ({"image": IMAGE, "sync": SYNC, "state": {"enabled": False}, "metrics": {"enabled": True}}, "state.enabled"),
        ({"sync": {"shedule": "1 1 * * *"}}, "shedule"),
        ({"environment": {"HARBOR_PASSWORD": "x"}}, "HARBOR_PASSWORD"),
        ({"environment": {"SYNCER_API_KEY": "x"}}, "SYNCER_API_KEY"),
        ({"environment": {"HTTPS_PROXY": "http://me:word@proxy:3128"}}, "HTTPS_PROXY"),
        ({"sync": {"args": ["--username=me"]}}, "args"),
        ({"fleet": {"bundle": "https://me:word@files.example.com/b"}}, "bundle"),
        ({"logins": {"registry": {"password": "x"}}}, "registry"),
        ({"fleet": {"shares": 0}}, "shares"),
    ],
)
def test_values_that_are_wrong_or_hold_a_login_are_refused(values: Any, said: str, tmp_path: Path) -> None:
    rendered = helm("template", values, tmp_path, "--kube-version", "1.33.0")

    assert rendered.returncode != 0
    assert said in rendered.stderr


def test_every_value_has_a_schema_and_every_schema_a_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(known: dict[str, Any], there: dict[str, Any], path: str) -> None:
        assert set(known["properties"]) - {"global"} == set(there), path
        assert known["additionalProperties"] is False, path
        for name, inner in known["properties"].items():
            if "properties" in inner:
                compare(inner, there[name], f"{path}.{name}")

    schema["properties"].pop("global")
    compare(schema, values, "values")


def test_the_chart_is_that_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (package.__version__, package.__version__)


def test_policies_let_in_only_those_who_are_named(tmp_path: Path) -> None:
    documents = [one for one in render(ALL, tmp_path) if one["kind"] == "NetworkPolicy"]
    policies = {one["metadata"]["name"].removeprefix("night-syncer-"): one["spec"] for one in documents}

    assert set(policies) == {"sync", "fleet", "serve", "metrics"}
    for part, policy in policies.items():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert ("ingress" in policy, "egress" in policy) == (
            (True, False) if part in {"serve", "metrics"} else (False, True)
        )
    assert policies["serve"]["ingress"] == [{"ports": [{"port": "registry"}], "from": [{"namespaceSelector": {}}]}]
    assert {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]} in policies["sync"]["egress"]


def test_prometheus_is_led_to_the_metrics_of_the_nights(tmp_path: Path) -> None:
    documents = render(ALL, tmp_path)
    monitor = of_kind(documents, "ServiceMonitor", "metrics")
    service = of_kind(documents, "Service", "metrics")
    pod = of_kind(documents, "Deployment", "metrics")["spec"]["template"]
    cron = of_kind(documents, "CronJob", "sync")["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert (endpoint["port"], port["targetPort"]) == (port["name"], pod["spec"]["containers"][0]["ports"][0]["name"])
    state = {"persistentVolumeClaim": {"claimName": "night-syncer-state"}}
    assert {"name": "state"} | state in pod["spec"]["volumes"]
    assert {"name": "state"} | state in cron["volumes"]
    assert "--metrics-file=/var/lib/syncer/sync.prom" in cron["containers"][0]["args"]


async def run(pod: dict[str, Any], config: dict[str, Any], tmp_path: Path, **variables: str) -> Ran:
    """Run the container of ``pod`` without Kubernetes: with its arguments, and its files in another place."""
    places = {"/etc/syncer": tmp_path / "files", "/var/lib/syncer": tmp_path / "state"}
    for place in places.values():
        place.mkdir(exist_ok=True)
    for name, text in config["data"].items():
        (places["/etc/syncer"] / name).write_text(text)
    words = []
    for word in pod["containers"][0]["args"]:
        for path, place in places.items():
            word = word.replace(path, str(place))  # noqa: PLW2901
        words.append(word)
    return await syncer(*words, home=tmp_path, **variables)


async def test_the_nightly_sync_runs(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    image = images.image("app")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", image, "1")
        config = {
            "sources": [{"images_file": "images.txt"}],
            "targets": [{"registry": f"{target.address}/mirror"}],
        }
        sync = {"enabled": True, "config": config, "files": {"images.txt": f"{source.address}/app:1\n"}}
        documents = render({"image": IMAGE, "sync": sync, "metrics": {"enabled": True}}, tmp_path)
        pod = of_kind(documents, "CronJob", "sync")["spec"]["jobTemplate"]["spec"]["template"]["spec"]

        ran = await run(pod, of_kind(documents, "ConfigMap", "sync"), tmp_path)

        assert ran.code == 0, ran.stderr
        await client.assert_holds(target, f"mirror/{source.address.replace(':', '_')}/app", image, "1")
    assert {"report.json", "sync.prom"} <= {path.name for path in (tmp_path / "state").iterdir()}


async def test_the_shares_of_the_fleet_bring_all_sites_the_bundle(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    image = images.image("app")
    async with (
        debian_registry("source") as source,
        debian_registry("a") as a,
        debian_registry("b") as b,
        debian_registry("c") as c,
    ):
        await client.push(source, "app", image, "1")
        built = await syncer(
            "build", "--image", f"{source.address}/app:1", "--name", "edge", "--output", tmp_path, home=tmp_path
        )
        assert built.code == 0, built.stderr
        targets = {"targets": [{"registry": f"{site.address}/images"} for site in (a, b, c)]}
        fleet = {"enabled": True, "shares": 2, "bundle": str(tmp_path / "edge.tar.zst"), "targets": targets}
        documents = render({"image": IMAGE, "fleet": fleet}, tmp_path)
        job = of_kind(documents, "Job", "fleet")["spec"]
        assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 2, 2)

        for index in range(job["completions"]):
            config = of_kind(documents, "ConfigMap", "fleet")
            ran = await run(job["template"]["spec"], config, tmp_path, JOB_COMPLETION_INDEX=str(index))
            assert ran.code == 0, ran.stderr

        for site in (a, b, c):
            await client.assert_holds(site, f"images/{source.address.replace(':', '_')}/app", image, "1")


def test_the_values_that_the_page_shows_are_values(tmp_path: Path) -> None:
    """And what they have for syncer to read is what syncer reads, without a warning."""
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)

    assert len(shown) == 3
    for text in shown:
        documents = render(yaml.safe_load(text), tmp_path)
        for document in documents:
            for name, content in document.get("data", {}).items():
                (tmp_path / name).write_text(content)
        if (tmp_path / "sync.yaml").exists():
            assert read_sync_file(tmp_path / "sync.yaml").warnings == ()
            (tmp_path / "sync.yaml").unlink()
        if (tmp_path / "sites.yaml").exists():
            assert len(read_sites(tmp_path / "sites.yaml", {}).sites) == 251
            (tmp_path / "sites.yaml").unlink()
