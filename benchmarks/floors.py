"""What this machine can do at best, whoever does it."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.installed import SYNCER, environment

_MEGABYTE = 1024 * 1024


def machine() -> dict[str, Any]:
    """What a reader must know to compare the numbers with his own."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
    }


def floors(directory: Path) -> dict[str, float | list[float]]:
    """Bytes a second of one core hashing, of loopback and of writing into ``directory``; seconds of several starts."""
    return {
        "sha256_bytes_per_second": _hashing(),
        "loopback_bytes_per_second": _loopback(),
        "write_bytes_per_second": _writing(directory / "floor"),
        "python_start_seconds": _starts(sys.executable, "-c", "pass"),
        "syncer_version_seconds": _starts(*SYNCER, "version"),
        "floor_start_seconds": _starts(sys.executable, "-m", "benchmarks.lean"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _hashing(megabytes: int = 512) -> float:
    piece = os.urandom(_MEGABYTE)
    hasher = hashlib.sha256()
    began = time.perf_counter()
    for _ in range(megabytes):
        hasher.update(piece)
    return megabytes * _MEGABYTE / (time.perf_counter() - began)


def _loopback(megabytes: int = 1024) -> float:
    """One sender, one receiver, and nothing done with what arrives."""
    piece = bytes(_MEGABYTE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()

    def send() -> None:
        with sender:
            for _ in range(megabytes):
                sender.sendall(piece)

    thread = threading.Thread(target=send)
    buffer = bytearray(_MEGABYTE)
    began = time.perf_counter()
    thread.start()
    with receiver:
        while receiver.recv_into(buffer):
            pass
    thread.join()
    return megabytes * _MEGABYTE / (time.perf_counter() - began)


def _writing(path: Path, megabytes: int = 512) -> float:
    piece = bytes(_MEGABYTE)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(megabytes):
            file.write(piece)
    seconds = time.perf_counter() - began
    path.unlink()
    return megabytes * _MEGABYTE / seconds


def _starts(*argv: str) -> list[float]:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=True, env=environment({}))
        times.append(time.perf_counter() - began)
    return times
