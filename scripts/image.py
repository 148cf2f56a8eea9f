"""The container image of syncer, written as an OCI archive: no base image, no daemon, no root.

Debian's packages make the root, unpacked and not installed, so that no script of a package leaves a log, an id or a
time in it. The libraries of ``scripts/image-requirements.txt`` come above it, each known by its digest, and the wheel
of syncer on top: three layers, of which a new syncer changes the last. Nothing else is in the image: no shell, no
package manager, no pip.

The same packages, libraries and wheel give the same bytes: files are in the order of their names, belong to root, and
have no time; bytecode knows its source by a digest. ``SOURCE_DATE_EPOCH`` (seconds) is when the image says that it was
created.

    python scripts/image.py --wheel dist/oci_syncer-0.1.0-py3-none-any.whl --name oci-syncer:0.1.0 --output image.tar
    python scripts/image.py --lock

It needs Debian's apt-get and dpkg-deb, ``strip`` and ``readelf`` of binutils, and pip in the Python that runs it.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "image-requirements.txt"

SUITE = "trixie"
PYTHON = "3.13"
"""The suite's own Python."""

PACKAGES = f"""
    base-files netbase media-types tzdata ca-certificates
    libc6 gcc-14-base libgcc-s1 libstdc++6 zlib1g libbz2-1.0 liblzma5 libzstd1 libexpat1 libssl3t64 libffi8 libuuid1
    libpython{PYTHON}-minimal libpython{PYTHON}-stdlib python{PYTHON}-minimal
""".split()
"""All packages of the root. Others that these depend on install packages, edit lines or are databases."""

UNUSED = """
    usr/bin/*[!0-9.] usr/sbin/* usr/lib/*/gconv/* usr/lib/*/engines-3/* usr/lib/valgrind/*
    usr/share/doc/*/*[!t] usr/share/doc/*/*[!h]t usr/share/man/* usr/share/locale/* usr/share/lintian/* usr/share/bug/*
    usr/share/base-files/* usr/share/debianutils/* usr/share/gcc* usr/share/gdb* usr/share/binfmts/* usr/share/perl5/*
    usr/share/applications/* usr/share/pixmaps/* usr/share/ca-certificates/* etc/ca-certificates/* etc/issue* etc/motd
    etc/update-motd.d/*
    usr/lib/python*/test/* usr/lib/python*/pydoc_data/* usr/lib/python*/idlelib/* usr/lib/python*/ensurepip/*
    usr/lib/python*/venv/* etc/dpkg/* etc/python*/debian_config
    usr/lib/python*/turtle* usr/lib/python*/tkinter/* usr/lib/python*/_pyrepl/* usr/lib/python*/sqlite3/*
    */lib-dynload/_test* */lib-dynload/_xxtest* */lib-dynload/xx* */lib-dynload/_ctypes_test* */lib-dynload/_sqlite3*
    */lib-dynload/_curses* */lib-dynload/_dbm* */lib-dynload/readline*
    */dist-packages/bin/* */dist-packages/share/* */dist-packages/*/tests/* */pygments/lexers/[!_]*
    */_testcapi.* */__pycache__/* *.pyi *.pyx *.pxd *.pxi *.h *.c
    *.dist-info/RECORD *.dist-info/INSTALLER *.dist-info/REQUESTED *.dist-info/direct_url.json
"""
"""Patterns of files that no run of syncer opens. Copyrights and licences stay."""

SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
HOME = "var/lib/syncer"
USER = 65532
"""The number that images without a root use for their user."""

SETTINGS = {
    "etc/passwd": f"root:x:0:0:root:/root:/sbin/nologin\nsyncer:x:{USER}:{USER}:syncer:/{HOME}:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nsyncer:x:{USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
ENTRY = f"#!/usr/bin/python{PYTHON} -I\nimport sys\n\nfrom syncer.cli import main\n\nsys.exit(main())\n"
LINKS = {
    "usr/bin/python3": f"python{PYTHON}",
    "usr/lib/ssl/certs": "/etc/ssl/certs",
    "usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
}
"""OpenSSL looks for certificates where the package ``openssl`` leads to; that package is not here."""

PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--wheel", type=Path, help="the wheel of syncer")
    parser.add_argument("--name", help="the name of the image, with its tag")
    parser.add_argument("--output", type=Path, help="the archive to be written")
    parser.add_argument("--sources", type=Path, help="a list of apt's sources, such as of a snapshot")
    parser.add_argument("--downloads", type=Path, help="where packages and wheels go, and come from if it is there")
    parser.add_argument("--lock", action="store_true", help="write the newest versions of the libraries down, and end")
    asked = parser.parse_args()
    if asked.lock:
        lock()
        return
    if not (asked.wheel and asked.name and asked.output):
        parser.error("--wheel, --name and --output belong together")
    for program in ("apt-get", "dpkg-deb", "strip", "readelf"):
        if not shutil.which(program):
            sys.exit(f"image: needs {program}; on another system than Debian: make image BASE_IMAGE=…")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-") as scratch:
        downloads = asked.downloads or Path(scratch) / "downloads"
        if not downloads.exists():
            fetch(downloads, asked.sources, Path(scratch))
        layers = write_layers(Path(scratch), downloads, asked.wheel)
        size = write_archive(asked.output, asked.name, layers)
    print(f"{asked.output}: {size / 1e6:.1f} MB, {sum(layer.unpacked for layer in layers) / 1e6:.1f} MB unpacked")


class Layer:
    """A layer as registries keep it, and the name of what is in it."""

    def __init__(self, comment: str, root: Path) -> None:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(root.rglob("*")):
                _add(archive, path, path.relative_to(root).as_posix())
        self.comment = comment
        self.unpacked = tar.tell()
        self.content = gzip.compress(tar.getvalue(), compresslevel=6, mtime=0)
        self.diff = _digest(tar.getvalue())


def fetch(downloads: Path, sources: Path | None, scratch: Path) -> None:
    """Fetch Debian's packages, with the signatures that this machine trusts, and the libraries into ``downloads``."""
    (apt := scratch / "apt").mkdir()
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(sources.read_text() if sources else "".join(_sources()))
    settings = {
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Retries": 3,
        "APT::Sandbox::User": "root",
    }
    got = scratch / "got"
    got.mkdir()
    apt_get = ["apt-get", "-qq", *(f"--option={name}={value}" for name, value in settings.items())]
    subprocess.run([*apt_get, "update"], check=True, stdout=sys.stderr)
    subprocess.run([*apt_get, "download", *PACKAGES], check=True, cwd=got, stdout=subprocess.DEVNULL)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    locked = ["--require-hashes", "--only-binary=:all:", *_target(), f"--requirement={REQUIREMENTS}", f"--dest={got}"]
    subprocess.run([*pip, *locked], check=True)
    shutil.copytree(got, downloads)


def write_layers(scratch: Path, downloads: Path, wheel: Path) -> list[Layer]:
    """Make the three layers below ``scratch``: Debian, the libraries, and syncer."""
    debian, libraries, ours = (scratch / name for name in ("debian", "libraries", "syncer"))
    for package in sorted(downloads.glob("*.deb")):
        _unpack(package, debian)
    _write_settings(debian)
    _install(libraries / SITE, *downloads.glob("*.whl"))
    _install(ours / SITE, wheel)
    for root in (debian, libraries, ours):
        _prune(root)
    (ours / HOME).mkdir(parents=True)
    _write(ours, "usr/local/bin/syncer", ENTRY)
    subprocess.run(["strip", "--strip-unneeded", *sorted(libraries.rglob("*.so*"))], check=True)
    _look_for_libraries(debian, libraries)
    for directory in (f"{debian}/usr/lib/python{PYTHON}", libraries / SITE, ours / SITE):
        _compile(debian, Path(directory))
    return [Layer("Debian", debian), Layer("libraries", libraries), Layer("syncer", ours)]


def _unpack(package: Path, root: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    about = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
    _write(root, f"var/lib/dpkg/status.d/{package.name.partition('_')[0]}", about)  # where scanners look


def _write_settings(debian: Path) -> None:
    """Write what else the scripts of the packages would have written."""
    certificates = sorted((debian / "usr/share/ca-certificates").rglob("*.crt"))
    _write(debian, "etc/ssl/certs/ca-certificates.crt", "".join(path.read_text() for path in certificates))
    for name, text in SETTINGS.items():
        _write(debian, name, text)
    for name, target in LINKS.items():
        (debian / name).parent.mkdir(parents=True, exist_ok=True)
        (debian / name).symlink_to(target)


def _sources() -> Iterator[str]:
    """The sources of ``SUITE`` at the mirrors of Debian that this machine uses."""
    shown = ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    listed = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    mirrors = {
        (uri, re.sub(r"^[a-z]+", SUITE, release))
        for kind, uri, release, component in (line.split() for line in set(listed.splitlines()))
        if kind == "Packages" and component == "main" and re.search(r"/debian(-security)?/?$", uri)
    }
    if not mirrors:
        sys.exit("image: apt has no mirror of Debian here; name sources with --sources, or: make image BASE_IMAGE=…")
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keys}] " if keys.exists() else ""
    for uri, release in sorted(mirrors):
        yield f"deb {signed}{uri} {release} main\n"


def _target(architecture: str | None = None) -> list[str]:
    """Options by which pip takes the wheels of the image's Python."""
    machine = PLATFORMS[architecture or _architecture()]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(41, 16, -1)] + [f"manylinux2014_{machine}"]
    return [
        *("--implementation=cp", f"--python-version={PYTHON}"),
        *(f"--abi={abi}" for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none")),
        *(f"--platform={platform}" for platform in (*platforms, "any")),
    ]


def _architecture() -> str:
    shown = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True)
    if (architecture := shown.stdout.strip()) not in PLATFORMS:
        sys.exit(f"image: there are images for {' and '.join(PLATFORMS)}, and none for {architecture}")
    return architecture


def _install(directory: Path, *wheels: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    options = ["--no-deps", "--no-index", "--no-compile", *_target(), "--only-binary=:all:", f"--target={directory}"]
    subprocess.run([*pip, *options, *sorted(path.resolve() for path in wheels)], check=True)


def _prune(root: Path) -> None:
    """Remove what ``UNUSED`` names, and directories that are empty then."""
    unused = re.compile("|".join(map(fnmatch.translate, UNUSED.split())))
    for path in sorted(root.rglob("*"), reverse=True):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or path.is_file():
            if unused.match(name):
                path.unlink()
        elif not any(path.iterdir()) and name.count("/"):
            path.rmdir()


def _look_for_libraries(*roots: Path) -> None:
    """Exit if a library that something in ``roots`` is linked with is in none of them."""
    found = [path for root in roots for pattern in ("*.so", "*.so.*") for path in root.rglob(pattern) if path.is_file()]
    programs = [path for root in roots for path in root.glob("usr/bin/*")]
    shown = subprocess.run(["readelf", "--dynamic", *found, *programs], check=True, capture_output=True, text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", shown.stdout))
    if missing := needed - {path.name for path in found}:
        sys.exit(f"image: no package of PACKAGES brings {', '.join(sorted(missing))}")


def _compile(debian: Path, directory: Path) -> None:
    """Compile with the Python of the image, which runs from its root by its own loader."""
    (loader,) = debian.glob("usr/lib*/ld-linux-*.so.*")
    (libraries,) = (path.parent for path in debian.glob("usr/lib/*/libc.so.6"))
    root = next(parent for parent in directory.parents if parent.parent == debian.parent)
    command = [loader, "--library-path", libraries, debian / f"usr/bin/python{PYTHON}", "-S", "-m", "compileall"]
    options = ["-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"]
    clean = {"PYTHONHOME": str(debian / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*map(str, [*command, *options, directory])], check=True, env=clean)


def _write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    if text.startswith("#!"):
        (root / name).chmod(0o755)


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file as root's, with the mode that any such file has, and without a time."""
    entry = tarfile.TarInfo(name)
    if path.is_symlink():
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(path.readlink()), 0o777
        archive.addfile(entry)
    elif path.is_dir():
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o1777 if name in {"tmp", "var/tmp"} else 0o755
        entry.uid = entry.gid = USER if name == HOME else 0
        archive.addfile(entry)
    else:
        content = path.read_bytes()
        entry.size = len(content)
        entry.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
        archive.addfile(entry, io.BytesIO(content))


def write_archive(output: Path, name: str, layers: Iterable[Layer]) -> int:
    """Write an image of ``layers`` as an OCI layout in a tar; its size in bytes."""
    layers = list(layers)
    version = name.rpartition(":")[2]
    created = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config: dict[str, Any] = {
        "architecture": _architecture(),
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER}:{USER}",
            "Env": ["PATH=/usr/local/bin:/usr/bin", f"HOME=/{HOME}", "LANG=C.UTF-8"],
            "Entrypoint": ["syncer"],
            "Cmd": ["--help"],
            "WorkingDir": f"/{HOME}",
            "Labels": {
                "org.opencontainers.image.title": "oci-syncer",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff for layer in layers]},
        "history": [
            {"created": created, "created_by": "scripts/image.py", "comment": layer.comment} for layer in layers
        ],
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _blob(blobs, _json(config), "application/vnd.oci.image.config.v1+json"),
        "layers": [_blob(blobs, layer.content, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in layers],
    }
    entry = _blob(blobs, _json(manifest), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    entry["platform"] = {"architecture": config["architecture"], "os": "linux"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    files = {"index.json": _json(index), "oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files |= {f"blobs/{digest.replace(':', '/')}": content for digest, content in blobs.items()}
    partial = output.with_name(f"{output.name}.partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in sorted(files.items()):
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    partial.replace(output)
    return output.stat().st_size


def _blob(blobs: dict[str, bytes], content: bytes, media_type: str) -> dict[str, Any]:
    digest = _digest(content)
    blobs[digest] = content
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def lock() -> None:
    """Write down the newest libraries that syncer's dependencies allow, for each platform, into ``REQUIREMENTS``."""
    dependencies = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    found: dict[str, set[str]] = {}
    for architecture in PLATFORMS:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        options = ["--ignore-installed", "--only-binary=:all:", *_target(architecture), "--report", "-"]
        with tempfile.TemporaryDirectory() as nowhere:
            asked = [*pip, *options, "--target", nowhere, *dependencies]
            report = json.loads(subprocess.run(asked, check=True, stdout=subprocess.PIPE).stdout)
        for one in report["install"]:
            name = re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
            digests = found.setdefault(f"{name}=={one['metadata']['version']}", set())
            digests.add(one["download_info"]["archive_info"]["hashes"]["sha256"])
    lines = ["# Libraries of the container image: written by `make image-lock`, and not by hand.\n"]
    for requirement, digests in sorted(found.items()):
        lines.append(" \\\n    ".join([requirement, *(f"--hash=sha256:{digest}" for digest in sorted(digests))]) + "\n")
    REQUIREMENTS.write_text("".join(lines))


if __name__ == "__main__":
    main()
