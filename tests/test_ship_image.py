"""The container image of `make image`: the same bytes each time, and it runs without rights on a read-only root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest

import syncer as package
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import syncer
from tests.support.programs import needs
from tests.test_distribution import ROOT

pytestmark = pytest.mark.ship

NAME = f"oci-syncer:{package.__version__}"


class Archive:
    """An OCI archive, read without any program of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path) as archive:
            self.files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        (self.entry,) = json.loads(self.files["index.json"])["manifests"]
        self.manifest = self._document(self.entry)
        self.config = self._document(self.manifest["config"])

    def _document(self, descriptor: dict[str, Any]) -> Any:
        return json.loads(self.blob(descriptor))

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        return self.files[f"blobs/{descriptor['digest'].replace(':', '/')}"]

    @property
    def members(self) -> list[tarfile.TarInfo]:
        """Everything in the layers."""
        members = []
        for layer in self.manifest["layers"]:
            with tarfile.open(fileobj=BytesIO(self.blob(layer))) as archive:
                members += archive.getmembers()
        return members

    def unpack(self, root: Path) -> None:
        """As a runtime does it, by tar and with the owners."""
        root.mkdir()
        for layer in self.manifest["layers"]:
            subprocess.run(["tar", "-xz", "-p", "--same-owner", "-C", root], check=True, input=self.blob(layer))


def build(output: Path, *arguments: str | Path, umask: int = 0o022) -> Archive:
    for program in ("apt-get", "dpkg-deb", "strip"):
        needs(program)
    built = subprocess.run(
        [sys.executable, ROOT / "scripts/image.py", "--name", NAME, "--output", output, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"},
        umask=umask,
    )
    assert built.returncode == 0, built.stderr
    return Archive(output)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def wheel(directory: Path) -> Path:
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, cwd=directory)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def archive(directory: Path, wheel: Path) -> Archive:
    return build(directory / "image.tar", "--wheel", wheel, "--downloads", directory / "downloads")


@pytest.fixture(scope="module")
def root(directory: Path, archive: Archive) -> Path:
    if os.getuid() != 0:
        pytest.skip("needs root, to be another user on a read-only root")
    archive.unpack(directory / "root")
    return directory / "root"


async def run(root: Path, home: Path, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run ``command`` in the image as its user: all of the root is read-only, but for its home and /tmp."""
    needs("unshare")
    mounts = (
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && mount --bind {home} {root}/var/lib/syncer"
        f" && mount -t tmpfs none {root}/tmp"
    )
    (enter := home.parent / "enter").write_text(
        f'{mounts} && exec chroot --userspec=65532:65532 {root} /usr/bin/python3 -c "$IN" "$@"\n'
    )
    into = (
        "import os, sys; os.chdir('/var/lib/syncer');"
        " os.execvpe(sys.argv[1], sys.argv[1:], dict(HOME=os.getcwd(), PATH='/usr/local/bin:/usr/bin'))"
    )
    return await anyio.run_process(
        ["unshare", "--mount", "sh", enter, *command], check=False, env={"IN": into, "PATH": os.environ["PATH"]}
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A volume that is the image's user's."""
    (volume := tmp_path / "volume").mkdir()
    os.chown(volume, 65532, 65532)
    return volume


def test_the_same_packages_give_the_same_bytes(directory: Path, wheel: Path, archive: Archive) -> None:
    """Whatever the umask is, and whenever and wherever that is."""
    again = build(directory / "again.tar", "--wheel", wheel, "--downloads", directory / "downloads", umask=0o077)

    assert again.path.read_bytes() == archive.path.read_bytes()


def test_the_image_says_who_runs_it_and_how(archive: Archive) -> None:
    config = archive.config["config"]

    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["syncer"]
    assert "HOME=/var/lib/syncer" in config["Env"]
    assert archive.config["created"] == "2023-11-14T22:13:20Z"
    assert archive.entry["annotations"] == {"org.opencontainers.image.ref.name": NAME}


def test_the_image_is_small_and_has_nothing_to_get_at_home_with(archive: Archive) -> None:
    """No shell, package manager, pip, compiler or tests; nothing of anybody's but root's, and nothing set-uid."""
    names = {Path(member.name).name for member in archive.members if not member.isdir()}

    assert archive.path.stat().st_size < 40_000_000
    assert not names & {"sh", "bash", "dash", "dpkg", "apt-get", "pip", "pytest", "gcc", "tests", "machine-id"}
    for member in archive.members:
        owner = 65532 if member.name == "var/lib/syncer" else 0
        assert (member.uid, member.gid, member.mtime) == (owner, owner, 0), member.name
        assert not member.mode & 0o6000, member.name
        assert member.issym() or not member.mode & 0o022 or member.name in {"tmp", "var/tmp"}, member.name


def test_every_module_is_compiled(archive: Archive) -> None:
    """Since nothing can be, on a root that is read-only."""
    names = {member.name for member in archive.members}
    modules = [Path(name) for name in names if name.endswith(".py") and "dist-packages" in name]

    assert len(modules) > 500
    assert all(f"{path.parent}/__pycache__/{path.stem}.cpython-313.pyc" in names for path in modules)


def test_the_licences_of_all_that_is_in_it_are_in_it(archive: Archive) -> None:
    names = {member.name for member in archive.members}
    links = {member.name: member.linkname for member in archive.members if member.issym()}
    packages = {Path(name).name for name in names if name.startswith("var/lib/dpkg/status.d/")}

    assert len(packages) > 15
    for package_name in packages:
        told = links.get(f"usr/share/doc/{package_name}", package_name)
        assert f"usr/share/doc/{told}/copyright" in names
    assert any(name.endswith("oci_syncer-" + package.__version__ + ".dist-info/licenses/LICENSE") for name in names)


async def test_it_runs_as_nobody_on_a_read_only_root(root: Path, home: Path) -> None:
    version = await run(root, home, "syncer", "version")
    probe = "import os; print(os.getuid(), os.access('/usr/local', os.W_OK)); open('/usr/local/x', 'w')"
    written = await run(root, home, "python3", "-c", probe)

    assert version.stdout.decode().strip() == package.__version__, version.stderr
    assert written.stdout.decode().split() == ["65532", "False"], written.stderr
    assert b"Read-only file system" in written.stderr


async def test_all_of_syncer_and_the_authorities_of_the_world_are_there(root: Path, home: Path) -> None:
    """Everything but what Dask is for, and with no warning from any library on the image's Python."""
    probe = (
        "import importlib, pkgutil, ssl, syncer, zoneinfo\n"
        "names = [one.name for one in pkgutil.walk_packages(syncer.__path__, 'syncer.')]\n"
        "names = [name for name in names if 'dask' not in name and not name.endswith('__main__')]\n"
        "for name in names: importlib.import_module(name)\n"
        "zoneinfo.ZoneInfo('Europe/Berlin')\n"
        "print(len(names), len(ssl.create_default_context().get_ca_certs()))"
    )
    ran = await run(root, home, "python3", "-W", "error", "-c", probe)

    assert ran.returncode == 0, ran.stderr.decode()
    modules, authorities = map(int, ran.stdout.split())
    assert modules > 100
    assert authorities > 100


async def test_a_bundle_is_built_pushed_and_verified_in_it(
    root: Path, home: Path, debian_registry: OpenRegistry
) -> None:
    image = images.multi_platform("app")
    async with debian_registry("source") as source, debian_registry("target") as target:
        await client.push(source, "app", image, "1")
        at = f"{target.address}/mirror"
        for command in (
            ("build", "--image", f"{source.address}/app:1", "--name", "edge", "--output", "."),
            ("push", "--file", "edge.tar.zst", "--registry", at),
            ("verify", "--file", "edge.tar.zst", "--registry", at),
        ):
            ran = await run(root, home, "syncer", *command)
            assert ran.returncode == 0, ran.stderr.decode()

        await client.assert_holds(target, f"mirror/{source.address.replace(':', '_')}/app", image, "1")


async def test_syncer_itself_takes_the_image_where_it_is_needed(
    archive: Archive, debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """As docs/kubernetes.md shows it."""
    async with debian_registry() as registry:
        rule = "docker.io/library/oci-syncer=tools/oci-syncer"
        pushed = await syncer(
            "push", "--file", archive.path, "--registry", registry.address, "--map", rule, home=tmp_path
        )

        assert pushed.code == 0, pushed.stderr
        answer = await client.manifest(registry, "tools/oci-syncer", package.__version__)
        assert answer.content == archive.blob(archive.entry)
