"""The distribution is called oci-syncer, since ``syncer`` is somebody else's at PyPI; the command is ``syncer``."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

import syncer
from syncer.formats.yaml import parse_documents
from tests.support.cli import environment
from tests.support.programs import needs
from tests.test_help import CONTEXTS

ROOT = Path(__file__).parent.parent
CONTAINERFILE = (ROOT / "Containerfile").read_text().replace("\\\n", " ")

PAGES = ["README.md", "docs/install.md", "docs/examples/syncer-sync.cron", "docs/examples/syncer-sync.service"]
_INSTALL = re.compile(r"\b(?:pip[\d.]*|pipx|uv\s+(?:pip|tool))\s+install\s+(?P<what>(?:\\\n|[^\n;&|#`])+)")
_OURS = {"syncer", "oci-syncer"}


def instructions(name: str) -> list[str]:
    """What stands behind each instruction of that name in the Containerfile."""
    return re.findall(rf"^{name}\s+(.+)$", CONTAINERFILE, re.MULTILINE)


def installed_from_an_index(text: str) -> Iterator[str]:
    """Each command that has an index find a distribution of a name that is, or looks like, ours."""
    for command in _INSTALL.finditer(text):
        words = command["what"].replace("\\\n", " ").replace('"', " ").replace("'", " ").split()
        names = {re.split(r"[\[<>=~!@(),]", word)[0].lower().replace("_", "-").rstrip(".") for word in words}
        if names & _OURS:
            yield command[0]


def tracked() -> list[Path]:
    """The files of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    listed = subprocess.run([needs("git"), "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``make wheel`` builds, here by the backend that is installed."""
    directory = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, cwd=directory)
    (built,) = directory.iterdir()
    return built


def test_the_wheel_is_called_oci_syncer(wheel: Path) -> None:
    (distribution,) = distributions(path=[str(wheel)])

    assert wheel.name == f"oci_syncer-{syncer.__version__}-py3-none-any.whl"
    assert (distribution.name, distribution.version) == ("oci-syncer", syncer.__version__)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_names_the_wheel_names_the_one_of_this_version(page: str) -> None:
    assert set(re.findall(r"oci_syncer-([\d.]+)-", (ROOT / page).read_text())) == {syncer.__version__}


def test_the_wheel_brings_the_whole_package_and_nothing_beside_it(wheel: Path) -> None:
    (distribution,) = distributions(path=[str(wheel)])
    brought = {str(file) for file in distribution.files or () if ".dist-info" not in str(file)}

    files = [path for path in (ROOT / "syncer").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    schemas = {f"syncer/schemas/{path.name}" for path in (ROOT / "docs").glob("*.schema.json")}
    man = f"oci_syncer-{syncer.__version__}.data/data/share/man/man1/syncer.1"
    named = {page for context in CONTEXTS.values() for page in re.findall(r"docs/[\w.-]+\.md", context.get_help())}
    pages = {f"syncer/{page}" for page in named}
    assert brought == {path.relative_to(ROOT).as_posix() for path in files} | schemas | pages | {man}


def test_the_pages_that_help_names_are_where_it_says(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, tmp_path / "there"], check=True)
    ran = subprocess.run(
        [sys.executable, "-m", "syncer", "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": str(tmp_path / "there")},
    )

    assert str(tmp_path / "there/syncer") in ran.stdout
    assert (tmp_path / "there/syncer/docs/README.md").read_text() == (ROOT / "docs/README.md").read_text()


def test_the_wheel_brings_the_command(wheel: Path, tmp_path: Path) -> None:
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "there")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, cwd=tmp_path)

    ran = subprocess.run(
        [tmp_path / "there/bin/syncer", "version"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path) | {"PYTHONPATH": str(tmp_path / "there")},
    )

    assert ran.stdout.strip() == syncer.__version__


def test_the_image_is_made_from_that_wheel(wheel: Path) -> None:
    (copied,) = (shlex.split(line)[:-1] for line in instructions("COPY"))
    (installed,) = (line for line in instructions("RUN") if "pip install" in line)

    assert fnmatch.fnmatch(wheel.name, *copied)
    assert f"/tmp/{copied[0]}" in shlex.split(installed)
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [["syncer"]]


def test_the_kubernetes_job_runs_in_that_image() -> None:
    """Its user, its home, and what the tag says."""
    job = parse_documents((ROOT / "docs/examples/cronjob.yaml").read_text(), "cronjob.yaml")[0]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (home,) = (one["value"] for one in container["env"] if one["name"] == "HOME")

    assert container["image"].rpartition("/")[2] == f"oci-syncer:{syncer.__version__}"
    assert instructions("USER") == [f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"]
    assert instructions("ENV") == [f"HOME={home}"]
    assert home in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize(
    "name", ["syncer", "oci-syncer", "oci_syncer", "'syncer[x]'", '"syncer>=0.1"', "syncer==0.1.0"]
)
@pytest.mark.parametrize(
    "before",
    ["pip install", "python3 -m pip install -U", "pip install --index-url URL", "pip install \\\n  a", "pipx install"],
)
def test_an_installation_from_an_index_is_recognised(before: str, name: str) -> None:
    assert list(installed_from_an_index(f"RUN {before} {name} && true"))


@pytest.mark.parametrize(
    "text",
    [
        "pip install .  # the command syncer",
        "pip install ./oci_syncer-0.1.0-py3-none-any.whl",
        "`pip install .` gives the command syncer",
        "pip uninstall syncer",
        "pip install -q regctl; syncer version",
    ],
)
def test_an_installation_from_a_file_is_none_from_an_index(text: str) -> None:
    assert not list(installed_from_an_index(text))


def test_nothing_of_ours_has_an_index_find_us() -> None:
    """As long as we are not published, the code behind either name is a stranger's, or will be."""
    for path in tracked():
        if path != Path(__file__):
            assert not list(installed_from_an_index(path.read_text(errors="replace"))), path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a release, unpacked."""
    directory = tmp_path_factory.mktemp("sdist")
    build = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, directory], check=True, cwd=ROOT, capture_output=True)
    (built,) = directory.iterdir()
    assert built.name == f"oci_syncer-{syncer.__version__}.tar.gz"
    with tarfile.open(built) as archive:
        archive.extractall(directory, filter="data")
    return directory / f"oci_syncer-{syncer.__version__}"


def test_the_wheel_has_types_and_its_licence_and_no_tests(wheel: Path) -> None:
    (distribution,) = distributions(path=[str(wheel)])
    brought = {str(file) for file in distribution.files or ()}

    assert "syncer/py.typed" in brought
    assert distribution.metadata.get_all("License-File") == ["LICENSE"]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in brought)
    assert {name.partition("/")[0].partition("-")[0] for name in brought} == {"syncer", "oci_syncer"}
    assert not [name for name in brought if "test" in name.casefold() or "benchmark" in name or name.endswith(".pyc")]


def test_the_sources_bring_all_that_a_change_needs_and_nothing_that_was_made(sdist: Path) -> None:
    brought = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT).as_posix() for path in tracked()}

    assert brought - kept <= {"PKG-INFO"}
    assert {name for name in kept - brought if not name.startswith(".")} == set()


def test_the_sources_build_that_very_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], check=True, cwd=sdist, capture_output=True)

    (built,) = tmp_path.iterdir()
    assert built.name == wheel.name
    assert built.read_bytes() == wheel.read_bytes()


def test_every_action_of_a_workflow_is_named_by_a_commit_and_its_version() -> None:
    """A tag or a branch of an action can be moved to other code, and runs then with the rights of a release."""
    workflows = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
    used = [line for file in workflows for line in file.read_text().splitlines() if re.match(r"[\s-]*uses\s*:", line)]

    assert used
    pinned = re.compile(r"[\s-]*uses: [\w.-]+/[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert [line for line in used if not pinned.fullmatch(line)] == []
