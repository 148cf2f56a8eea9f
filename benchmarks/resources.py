"""What one command costs: time, CPU of client and servers, and memory at the peak."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.installed import environment

_SAMPLE_SECONDS = 0.05
_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments; ``lines`` are fed to it, as to ``xargs``."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time and of CPU, and bytes of resident memory of all its processes together.

    What only /proc tells is None where there is none.
    """

    wall: float
    client_cpu: float
    server_cpu: float | None
    other_cpu: float | None  # of whoever else was busy on the machine meanwhile
    peak_memory: int | None
    own_cpu: float = 0.0  # of this process, which a relay is a part of


class CommandFailed(Exception):
    """A measured command did not succeed; the message is the end of what it said."""


def measure(command: Command, servers: Sequence[int], log: Path) -> Cost:
    """Run ``command`` to its end; ``servers`` are the processes whose CPU it costs besides.

    Raises ``CommandFailed``.
    """
    before, machine_before, ours_before = _cpu_seconds(servers), _machine_cpu(), time.process_time()
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(command.environment),
        )
        memory = _MemoryWatch(process.pid)
        assert process.stdin
        process.stdin.write(command.lines.encode())
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    peak = memory.stop()
    after, machine_after, ours = _cpu_seconds(servers), _machine_cpu(), time.process_time() - ours_before
    if process.returncode:
        tail = log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"{command.argv[0]} ended with {process.returncode}: {tail}")
    client_cpu = usage.ru_utime + usage.ru_stime
    server_cpu = after - before if after is not None and before is not None else None
    other_cpu = None
    if machine_after is not None and machine_before is not None and server_cpu is not None:
        other_cpu = max(0.0, machine_after - machine_before - client_cpu - server_cpu - ours)
    return Cost(wall, client_cpu, server_cpu, other_cpu, peak, ours)


class _MemoryWatch:
    """Samples the memory of a process and its descendants.

    The kernel's own maximum (``ru_maxrss``) includes what the process was before it became the program.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int | None:
        """The peak in bytes; None where there is no /proc."""
        self._done.set()
        self._thread.join()
        return self._peak or None

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            family = [_memory(pid) for pid in _family(self._pid)]
            now = sum(resident for resident, _ in family)
            self._peak = max(self._peak, now, *(highest for _, highest in family), 0)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _memory(pid: int) -> tuple[int, int]:
    """Bytes resident now, and at most so far."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return int(found.get("VmRSS", 0)) * 1024, int(found.get("VmHWM", 0)) * 1024


def _cpu_seconds(pids: Sequence[int]) -> float | None:
    try:
        return sum(map(_process_cpu, pids))
    except OSError:
        return None


def _process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK  # utime and stime, proc(5)


def _machine_cpu() -> float | None:
    """Seconds that the machine's cores were busy since it started, and those that a hypervisor gave to others."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) * _TICK
