"""Files that say what runs: Kubernetes manifests, compose files, and directories of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from syncer.errors import InvalidFile
from syncer.oci import Reference
from syncer.profiles.palette.profile import Profile
from syncer.profiles.palette.profile_definition import define_profiles
from syncer.profiles.palette.profile_files import read_pack, read_profile_file
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer

_DIGEST = "sha256:" + "0" * 64


def _file(folder: Path, text: str, name: str = "web.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _images(profile: Profile, *, scan: bool = False) -> list[str]:
    return [str(image.image) for image in define_profiles("bundle", [profile], scan=scan).definition.images]


def _read(folder: Path, text: str, name: str = "web.yaml", **environment: str) -> list[str]:
    return _images(read_profile_file(_file(folder, text, name), environment))


def _mistakes(path: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """The mistakes of a file, without the folder."""
    with pytest.raises(InvalidFile) as raised:
        read_profile_file(path, environment or {})
    return [str(each).replace(f"{path.parent}/", "") for each in (raised.value, *raised.value.more)]


def test_the_images_of_a_deployment_are_those_of_all_its_containers_and_volumes(tmp_path: Path) -> None:
    text = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  template:
    spec:
      initContainers:
        - {{name: a, image: busybox}}
      containers:
        - {{name: b, image: "nginx:1.27"}}
        - {{name: c, image: quay.io/a/b@{_DIGEST}}}
        - {{name: d, image: "nginx:1.27"}}
      ephemeralContainers:
        - {{name: e, image: registry.local:5000/debug}}
      volumes:
        - {{name: f, image: {{reference: quay.io/a/data:v1}}}}
        - {{name: g, emptyDir: {{}}}}
"""

    gathered = define_profiles("bundle", [read_profile_file(_file(tmp_path, text))])

    assert [str(image.image) for image in gathered.definition.images] == [
        "docker.io/library/busybox:latest",
        "docker.io/library/nginx:1.27",
        f"quay.io/a/b@{_DIGEST}",
        "registry.local:5000/debug:latest",
        "quay.io/a/data:v1",
    ]
    assert gathered.definition.images[1].packs == ("web.yaml: Deployment web",)
    assert not any(image.guessed for image in gathered.definition.images)


@pytest.mark.parametrize(
    ("version", "kind", "place"),
    [
        ("v1", "Pod", "spec"),
        ("v1", "ReplicationController", "spec.template.spec"),
        ("v1", "PodTemplate", "template.spec"),
        ("apps/v1", "StatefulSet", "spec.template.spec"),
        ("apps/v1", "DaemonSet", "spec.template.spec"),
        ("apps/v1", "ReplicaSet", "spec.template.spec"),
        ("extensions/v1beta1", "Deployment", "spec.template.spec"),
        ("batch/v1", "Job", "spec.template.spec"),
        ("batch/v1beta1", "CronJob", "spec.jobTemplate.spec.template.spec"),
    ],
)
def test_each_kind_that_runs_pods_has_them_at_its_place(tmp_path: Path, version: str, kind: str, place: str) -> None:
    tree: object = {"containers": [{"name": "a", "image": "quay.io/a/b:v1"}]}
    for step in reversed(place.split(".")):
        tree = {step: tree}
    assert isinstance(tree, dict)
    single = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, **tree}
    several = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service"}, single]}

    for document in (single, several, {**several, "kind": f"{kind}List", "apiVersion": version}):
        assert _read(tmp_path, yaml.safe_dump(document)) == ["quay.io/a/b:v1"]
        assert _read(tmp_path, json.dumps(document), "web.json") == ["quay.io/a/b:v1"]


_OTHERS = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data:
  image: quay.io/a/config:v1
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: p}
spec:
  image: quay.io/prometheus/prometheus:v3.1.0
  sidecar: {image: {repository: quay.io/a/side, tag: v2}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: d}
spec: {description: "image: quay.io/a/example:v1\\n", image: quay.io/a/schema:v1}
---
# Source: helm template prints empty documents too
---
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
spec: {tasks: [{template: {spec: {containers: [{name: a, image: quay.io/a/task:v1}]}}}]}
"""


def test_images_of_other_kinds_are_told_and_taken_by_a_scan_alone(tmp_path: Path) -> None:
    pod = "---\napiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: 'quay.io/a/pod:v1'}]}\n"
    profile = read_profile_file(_file(tmp_path, _OTHERS + pod))
    guessed = [
        "quay.io/a/config:v1",
        "quay.io/prometheus/prometheus:v3.1.0",
        "quay.io/a/side:v2",
        "quay.io/a/task:v1",
    ]

    plain, scanned = (define_profiles("bundle", [profile], scan=scan) for scan in (False, True))

    assert [str(image.image) for image in plain.definition.images] == ["quay.io/a/pod:v1"]
    assert str(plain.unlisted[0]).startswith("file web.yaml does not list all, and names 4 elsewhere: ")
    assert "(Prometheus p in web.yaml)" in str(plain.unlisted[0])
    assert {str(image.image): image.guessed for image in scanned.definition.images} == {
        "quay.io/a/pod:v1": False,
        **dict.fromkeys(guessed, True),
    }


def test_variables_in_manifests_come_from_the_environment(tmp_path: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - name: a\n      image: {}\n"

    assert _read(tmp_path, pod.format("quay.io/a/b:$(TAG)"), TAG="v1") == ["quay.io/a/b:v1"]
    assert _read(tmp_path, pod.format("${REG:-quay.io}/a/b:$TAG"), TAG="v1") == ["quay.io/a/b:v1"]
    assert _mistakes(_file(tmp_path, pod.format("quay.io/a/b:$(TAG)"))) == [
        "web.yaml:6: spec.containers[0].image: the variable TAG is not set"
    ]


def test_all_mistakes_of_a_file_are_told_at_once_with_line_and_field(tmp_path: Path) -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
    - name: a
      image: quay.io/A/b
    - name: b
      image: [list]
    - text
---
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers: {name: a}
---
apiVersion: batch/v1
kind: Job
spec: {template: text}
"""

    assert _mistakes(_file(tmp_path, text)) == [
        (
            "web.yaml:7: spec.containers[0].image: 'quay.io/A/b' is not an image reference: its repository must be "
            "lower case, but has 'A'"
        ),
        "web.yaml:9: spec.containers[1].image: it must be the name of an image",
        "web.yaml:10: spec.containers[2]: it must be a mapping",
        "web.yaml:17: spec.template.spec.containers: it must be a list",
        "web.yaml:21: spec.template: it must be a mapping",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apiVersion: v1\nkind: Service\n", "web.yaml: it names no image: it holds Service"),
        (
            "apiVersion: content.hauler.cattle.io/v1\nkind: Images\n",
            "web.yaml:2: kind: Images is a file of another tool",
        ),
        (
            "apiVersion: mirror.openshift.io/v2alpha1\nkind: ImageSetConfiguration\n",
            "web.yaml:2: kind: ImageSetConfiguration is a file of another tool",
        ),
        ("- a\n- b\n", "web.yaml: it is a list, neither a profile nor a pack's values"),
        ("apiVersion: v1\nkind: Pod\nspec: {\n", "web.yaml:4: column 1: this is not YAML"),
    ],
)
def test_a_file_that_names_no_image_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    assert _mistakes(_file(tmp_path, text))[0].startswith(problem)


_TEMPLATE = "it is a template that is still to be filled in"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apiVersion: v1\nkind: Pod\nspec: {containers: [{image: '{{ .Values.image }}'}]}\n", f":3: {_TEMPLATE}"),
        ("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {{ .Release.Name }}\nspec: {}\n", f":4: {_TEMPLATE}"),
        ("{{- if .Values.on }}\napiVersion: v1\nkind: Pod\n{{- end }}\n", f":1: {_TEMPLATE}"),
    ],
)
def test_a_template_of_a_manifest_is_told_as_such(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidFile) as raised:
        read_profile_file(_file(tmp_path, text))

    assert problem in str(raised.value).replace(" spec.containers[0].image:", "")
    assert "helm template" in str(raised.value.hint)


@pytest.mark.parametrize("packed", [False, True])
def test_a_helm_chart_is_no_pack(tmp_path: Path, packed: bool) -> None:
    for name, text in {"Chart.yaml": "name: app\n", "values.yaml": "a: b\n", "templates/pod.yaml": "a: b\n"}.items():
        _file(tmp_path / "app", text, name)
    path = tmp_path / "app"
    if packed:
        path = tmp_path / "app-1.0.0.tgz"
        subprocess.run(["tar", "-C", tmp_path, "-czf", path, "app"], check=True)

    for read in (read_profile_file, read_pack):
        with pytest.raises(InvalidFile, match="it is a Helm chart, and no pack") as raised:
            read(path)
        assert "helm template" in str(raised.value.hint)


def test_what_no_image_can_be_taken_of_is_a_warning(tmp_path: Path) -> None:
    text = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  template:
    metadata: {annotations: {inject.istio.io/templates: gateway}}
    spec: {containers: [{name: istio-proxy, image: auto}, {name: patched}, {name: a, image: a}]}
---
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
"""
    path = _file(tmp_path, text)

    gathered = define_profiles("bundle", [read_profile_file(path)])

    assert [str(image.image) for image in gathered.definition.images] == ["docker.io/library/a:latest"]
    assert [warning.removeprefix(f"{path}: ") for warning in gathered.warnings] == [
        "Deployment gateway: Istio fills in the image of spec.template.spec.containers[0]",
        "spec.template.spec.containers[1] (Deployment gateway) has no image, so none is taken",
        (
            "a Kustomization is not applied, so the images are those of the manifests themselves; give what "
            "`kustomize build` prints"
        ),
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_what_kustomize_prints_is_read(tmp_path: Path) -> None:
    _file(
        tmp_path,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}]}\n",
        "a.yaml",
    )
    kustomization = "resources: [a.yaml]\nimages: [{name: a, newName: quay.io/a/b, newTag: v7}]\n"
    _file(tmp_path, kustomization, "kustomization.yaml")

    ran = subprocess.run(["kubectl", "kustomize", str(tmp_path)], check=True, capture_output=True, text=True)

    assert _read(tmp_path, ran.stdout, "built.yaml") == ["quay.io/a/b:v7"]


_COMPOSE = """\
name: shop
x-common: &common {platform: linux/arm64}
services:
  web:
    image: nginx:${TAG:-1.27}
    <<: *common
  api: {image: "${REGISTRY}/api:${VERSION:?say which}"}
  built: {build: .}
  both: {build: ., image: quay.io/a/both:1}
  never: {build: ., image: shop-never, pull_policy: build}
  debug: {image: busybox, profiles: [debug]}
  model: {provider: {type: model}}
  child:
    extends: {service: web}
    volumes:
      - named:/data
      - {type: image, source: quay.io/a/data:v1, target: /data}
  other: {extends: {file: common/base.yaml, service: base}, image: quay.io/a/other:v1}
  based: {extends: {file: common/base.yaml, service: base}}
"""


def test_a_compose_file_gives_the_images_of_its_services(tmp_path: Path) -> None:
    path = _file(tmp_path, _COMPOSE, "stack.yaml")
    _file(tmp_path, "services:\n  base: {image: 'quay.io/a/base:$VERSION'}\n", "common/base.yaml")
    _file(
        tmp_path,
        "# the usual ones\nVERSION=v1 # of all\nexport REGISTRY='quay.io/$$a'\nREGISTRY=\"quay.io/${ORG}\"\n",
        ".env",
    )
    environment = {"ORG": "team", "VERSION": "v2"}  # which win over .env

    profile = read_profile_file(path, environment)
    gathered = define_profiles("bundle", [profile])

    assert {str(image.image): image.guessed for image in gathered.definition.images} == {
        "docker.io/library/nginx:1.27": False,
        "quay.io/team/api:v2": False,
        "quay.io/a/both:1": True,  # compose builds it when no registry has it
        "quay.io/a/data:v1": False,
        "quay.io/a/other:v1": False,
        "quay.io/a/base:v2": False,
    }
    assert gathered.definition.images[0].packs == ("stack.yaml: service web", "stack.yaml: service child")
    assert [warning.removeprefix(f"{path}: ") for warning in gathered.warnings] == [
        "service built is built here, so there is no image of it to take",
        "service never is built here, so there is no image of it to take",
        "service debug is left out, since its profile debug is not active; COMPOSE_PROFILES=debug takes it",
        "service model is run by a provider, so there is no image of it to take",
    ]
    for active in ("debug", "a,debug", "*"):
        with_debug = read_profile_file(path, {**environment, "COMPOSE_PROFILES": active})
        assert "docker.io/library/busybox:latest" in _images(with_debug)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("a:$X", "a:one"),
        ("a:${X}", "a:one"),
        ("a:${E:-two}", "a:two"),
        ("a${E-two}:b", "a:b"),
        ("a:${U-two}", "a:two"),
        ("a:${U:-${V:-three}}", "a:three"),
        ("a:${X:+four}", "a:four"),
        ("a${E:+four}:b", "a:b"),
        ("a${E+b}:c", "ab:c"),
        ("a:${X:?message}", "a:one"),
    ],
)
def test_variables_follow_the_rules_of_compose(tmp_path: Path, text: str, image: str) -> None:
    compose = f"services:\n  a:\n    image: '{text}'\n"

    assert _read(tmp_path, compose, "compose.yaml", X="one", E="") == [f"docker.io/library/{image}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:${U}", "the variable U is not set"),
        ("a:$U", "the variable U is not set"),
        ("a:${U:?say which}", "the variable U is required: say which"),
        ("a:${U", "'a:${U' has a ${ that nothing closes"),
        ("a:${U!}", "${U!} is not a variable as compose writes them"),
        ("a:$", "'a:$' has a $ that begins no variable"),
        ("a:$$U", "'a:$U' is not an image reference"),
    ],
)
def test_a_variable_that_is_not_set_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = _file(tmp_path, f"services:\n  a:\n    image: '{text}'\n", "compose.yaml")

    assert _mistakes(path)[0].startswith(f"compose.yaml:3: services.a.image: {problem}")


def test_included_files_have_variables_of_their_own(tmp_path: Path) -> None:
    text = """\
include:
  - more/one.yaml
  - {path: [more/two.yaml, more/over.yaml], env_file: two.env}
services:
  a: {image: "a:${X}"}
"""
    path = _file(tmp_path, text, "compose.yaml")
    _file(tmp_path, "services: {b: {image: 'b:${X}'}}", "more/one.yaml")
    _file(tmp_path, "services: {c: {image: 'c:${X}'}}", "more/two.yaml")
    _file(tmp_path, "services: {c: {image: 'd:${Y}'}}", "more/over.yaml")
    _file(tmp_path, "Y=two\n", "two.env")
    _file(tmp_path, "X=1\n", ".env")

    _file(tmp_path, text + "  b: {image: 'b:${X}'}\n", "same.yaml")  # which is no contradiction
    assert _images(read_profile_file(tmp_path / "same.yaml"))[0] == "docker.io/library/b:1"
    (tmp_path / "same.yaml").unlink()
    for place in (path, tmp_path):  # what another file includes is not read a second time
        assert _images(read_profile_file(place)) == [
            "docker.io/library/b:1",
            "docker.io/library/d:two",
            "docker.io/library/a:1",
        ]


def test_mistakes_of_compose_files_are_told_at_once(tmp_path: Path) -> None:
    text = """\
include:
  - oci://docker.io/a/b:1
  - compose.yaml
  - gone.yaml
services:
  none: {ports: ["80"]}
  word: text
  platform: {image: a, platform: "linux/"}
  loop: {extends: back}
  back: {extends: loop}
  lost: {extends: {service: nobody}}
  image: {image: {a: b}}
"""
    found = _mistakes(_file(tmp_path, text, "compose.yaml"))

    assert [line.partition(" is not ")[0] for line in found] == [
        "compose.yaml:2: include[0]: oci://docker.io/a/b:1 lies elsewhere; only files beside it are read",
        "compose.yaml:3: include[1]: it leads back to itself",
        "compose.yaml:6: services.none: it has neither an image nor a build",
        "compose.yaml:7: services.word: it must be a mapping",
        "compose.yaml:8: services.platform.platform: 'linux/'",
        "compose.yaml:9: services.loop.extends: it leads back to itself",
        "compose.yaml:10: services.back.extends: it leads back to itself",
        "compose.yaml:11: services.lost.extends: compose.yaml has no service nobody",
        "compose.yaml:12: services.image.image: it must be a text",
        "gone.yaml: it cannot be read: No such file or directory",
    ]


def test_what_a_compose_file_says_besides_its_services(tmp_path: Path) -> None:
    named = "name: shop\nservices: {a: {image: 'a:${COMPOSE_PROJECT_NAME}', pull_policy: build}}\n"

    assert _read(tmp_path, named, "compose.yaml") == ["docker.io/library/a:shop"]
    assert _read(tmp_path, named, "compose.yaml", COMPOSE_PROJECT_NAME="other") == ["docker.io/library/a:other"]
    assert _read(tmp_path, named.partition("\n")[2], "My App/stack.yaml") == ["docker.io/library/a:myapp"]
    assert _mistakes(_file(tmp_path, "services:\n  a: {build: .}\n  b: !reset null\n", "compose.yaml"))[0] == (
        "compose.yaml:3: the tag !reset is not understood: say in one file what is meant"
    )


def test_the_variables_of_an_env_file_are_read_as_compose_reads_them(tmp_path: Path) -> None:
    lines = ["X=1#2 # three", "export X='1#2'", 'X="1#2" # three', "X = 1#2", "X: 1#2", 'A="b\nX=9"\nX=1#2', "X=1#2\r"]

    for line in lines:
        _file(tmp_path, f"# first\n\n{line}\n", ".env")

        with pytest.raises(InvalidFile, match=r"the tag 'v1#2' may hold"):
            _read(tmp_path, "services: {a: {image: 'a:v${X}'}}", "compose.yaml")


def test_a_directory_of_manifests_and_compose_files_is_read_whole(tmp_path: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: a, image: {}}}]}}\n"
    _file(tmp_path, pod.format("a:1"), "b/pod.yaml")
    _file(tmp_path, pod.format("b:1"), "a.yml")
    _file(tmp_path, pod.format("hidden:1"), ".git/a.yaml")
    _file(tmp_path, "services: {c: {image: 'c:1'}, d: {image: 'd:1'}}", "stack/docker-compose.yml")
    _file(tmp_path, "services: {c: {image: 'c:2'}}", "stack/docker-compose.override.yml")
    _file(tmp_path, "replicas: 3\n", "values.yml")
    _file(tmp_path, "[1, 2]", "b/list.json")
    _file(tmp_path, "", "empty.yaml")
    _file(tmp_path, "text", "README.md")

    profile = read_profile_file(tmp_path)

    assert sorted(_images(profile)) == [
        "docker.io/library/a:1",
        "docker.io/library/b:1",
        "docker.io/library/c:2",
        "docker.io/library/d:1",
    ]
    assert profile.warnings == (
        f"{tmp_path}: neither manifests nor compose files, so not read: b/list.json, values.yml",
    )


def test_the_mistakes_of_all_files_of_a_directory_are_told(tmp_path: Path) -> None:
    _file(tmp_path, "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: 'A'}]}\n", "d/a.yaml")
    _file(tmp_path, "kind: {\n", "d/b.yaml")
    _file(tmp_path, "services: {a: {}}", "d/compose.yaml")

    with pytest.raises(InvalidFile) as raised:
        read_profile_file(tmp_path / "d")

    lines = [str(each) for each in (raised.value, *raised.value.more)]
    assert [line.removeprefix(f"{tmp_path}/d/").partition(": ")[0] for line in lines] == [
        "compose.yaml:1",
        "a.yaml:3",
        "b.yaml:2",
    ]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_itself_names_the_same_images(tmp_path: Path) -> None:
    path = _file(
        tmp_path, _COMPOSE.partition("    volumes:")[0] + "  b: {build: ., image: 'b:${X:-1}'}\n", "stack.yaml"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REGISTRY": "quay.io/a", "VERSION": "v2"}
    command = ["docker-compose", "-f", str(path), "config", "--images"]

    for profiles in ("", "debug", "*"):
        given = {**environment, "COMPOSE_PROFILES": profiles}
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=given)

        named = {str(Reference.parse(line)) for line in ran.stdout.split() if not line.startswith("shop-")}
        assert set(_images(read_profile_file(path, given))) == named


async def test_a_deployment_is_built_and_synced_like_a_profile(
    debian_registry: OpenRegistry, serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    async with debian_registry() as source, serve_disk() as target:
        for name in ("one", "two"):
            await client.push(source, name, images.image(name), "1")
        pod = (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: '$(HOST)/one:1'}]}\n"
        )
        _file(tmp_path, pod, "pod.yaml")
        _file(tmp_path, "services: {two: {image: '${HOST}/two:1'}}\n", "compose.yaml")
        targets = f"targets: [{{registry: '{target.address}'}}]\n"
        _file(
            tmp_path, f"sources: [{{profile_file: pod.yaml}}, {{profile_file: compose.yaml}}]\n{targets}", "sync.yaml"
        )
        environment = {"HOST": source.address}
        files = ("--profile-file", tmp_path / "pod.yaml", "--profile-file", tmp_path / "compose.yaml")
        built = await syncer("build", *files, "--name", "a", "--output", tmp_path, home=tmp_path, **environment)
        synced = await syncer("sync", "-c", tmp_path / "sync.yaml", home=tmp_path, **environment)
        lost = await syncer("build", *files, "--name", "b", "--output", tmp_path, home=tmp_path)

    assert (built.code, synced.code, lost.code) == (0, 0, 2), built.stderr + synced.stderr
    assert "2 copied" in synced.stdout
    assert "pod.yaml:4: spec.containers[0].image: the variable HOST is not set" in lost.stderr
