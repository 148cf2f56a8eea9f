"""``make demo``: build, push and verify on this machine alone, with the same commands that a user types."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shlex
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_IMAGES = 12
_SHARED_LAYERS = 3
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def main() -> int:
    """Build a bundle from one embedded registry, push it into another, verify it; returns an exit code."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncer-demo-") as scratch, ExitStack() as stack:
        directory = Path(scratch)
        source = stack.enter_context(_embedded_registry(directory / "source"))
        target = stack.enter_context(_embedded_registry(directory / "target"))
        _say(
            f"An embedded registry at {source} gets {_IMAGES} small generated images; another one at {target} is empty."
        )
        names = [_publish(source, number) for number in range(_IMAGES)]
        listing = directory / "images.txt"
        listing.write_text("# what the cluster needs\n" + "".join(f"{name}\n" for name in names))

        bundle = directory / "demo.tar.zst"
        _syncer("build", "--images-file", str(listing), "--name", "demo", "--output", str(directory))
        _syncer("push", "--file", str(bundle), "--registry", f"{target}/mirror")
        _syncer("verify", "--file", str(bundle), "--registry", f"{target}/mirror")
        size = bundle.stat().st_size
    _say(
        f"Done in {time.monotonic() - began:.1f} s: {_IMAGES} images went from {source} into one file of "
        f"{size / 1e6:.1f} MB, from there to {target}/mirror, and were verified there, digest by digest."
    )
    return 0


def _say(text: str) -> None:
    print(f"\n\N{BLACK RIGHT-POINTING TRIANGLE} {text}", flush=True)  # noqa: T201


def _syncer(*arguments: str) -> None:
    _say(f"syncer {shlex.join(arguments)}")
    subprocess.run([sys.executable, "-m", "syncer", *arguments], check=True)  # noqa: S603  our own command


@contextmanager
def _embedded_registry(directory: Path) -> Iterator[str]:
    """Run ``syncer serve --disk`` on a free port of the loopback; yields ``host:port``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [sys.executable, "-m", "syncer", "serve", "--disk", str(directory), "--port", str(port)]
    environment = os.environ | {"NO_COLOR": "1"}
    with subprocess.Popen(serve, stderr=subprocess.DEVNULL, env=environment) as process:  # noqa: S603  our own command
        try:
            _await_answer(f"http://127.0.0.1:{port}/v2/", process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit("the embedded registry did not start")
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  a loopback address
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise SystemExit("the embedded registry does not answer")


def _publish(registry: str, number: int) -> str:
    """Push one generated image, every third one for two platforms; returns its reference."""
    repository = f"demo/app-{number:02}"
    architectures = ("amd64", "arm64") if number % 3 == 0 else ("amd64",)
    manifests = [_push_image(registry, repository, number, architecture) for architecture in architectures]
    if len(manifests) > 1:
        document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
        _put(registry, f"{repository}/manifests/1.0", json.dumps(document).encode(), _INDEX)
    else:
        content = _get(registry, f"{repository}/manifests/{manifests[0]['digest']}")
        _put(registry, f"{repository}/manifests/1.0", content, _MANIFEST)
    return f"{registry}/{repository}:1.0"


def _push_image(registry: str, repository: str, number: int, architecture: str) -> dict[str, object]:
    plain = [_tar(f"base-{number % _SHARED_LAYERS}", 400_000), _tar(f"app-{number}-{architecture}", 100_000)]
    layers = [_push_blob(registry, repository, gzip.compress(tar, 1, mtime=0), _LAYER) for tar in plain]
    config = {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in plain]},
    }
    described = _push_blob(registry, repository, json.dumps(config).encode(), _CONFIG)
    document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described, "layers": layers}
    content = json.dumps(document).encode()
    _put(registry, f"{repository}/manifests/{_digest(content)}", content, _MANIFEST)
    platform = {"os": "linux", "architecture": architecture}
    return {"mediaType": _MANIFEST, "digest": _digest(content), "size": len(content), "platform": platform}


def _push_blob(registry: str, repository: str, content: bytes, media_type: str) -> dict[str, object]:
    digest = _digest(content)
    _send("POST", registry, f"{repository}/blobs/uploads/?digest={digest}", content, "application/octet-stream")
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _put(registry: str, path: str, content: bytes, media_type: str) -> None:
    _send("PUT", registry, path, content, media_type)


def _get(registry: str, path: str) -> bytes:
    with urllib.request.urlopen(f"http://{registry}/v2/{path}", timeout=30) as answer:
        return bytes(answer.read())


def _send(method: str, registry: str, path: str, content: bytes, media_type: str) -> None:
    url = f"http://{registry}/v2/{path}"
    headers = {"Content-Type": media_type}
    request = urllib.request.Request(url, data=content, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass


def _tar(seed: str, size: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(f"opt/{seed}")
        entry.size = size
        archive.addfile(entry, io.BytesIO(random.Random(seed).randbytes(size)))  # noqa: S311  not for secrets
    return packed.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


if __name__ == "__main__":
    sys.exit(main())
