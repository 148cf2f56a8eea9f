"""What a tool is, and syncer as one of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus, Image
from benchmarks.installed import SYNCER
from benchmarks.jobs import Cannot, Job, Step
from benchmarks.resources import Command

PROCESSES = 8
"""Processes of a tool that takes one image at a time; on two cores more brought nothing."""

_DOCUMENT = re.compile(r"^\{$.*^\}$", re.DOTALL | re.MULTILINE)


class Tool:
    """One program; a kind of work that it does not override is one that it cannot do."""

    name: str
    output = ""  # what a build leaves in the job's directory
    pushes_layouts = False  # takes a push from the corpus's OCI layouts, so no build must come first
    is_variant = False  # of a tool that is here as well: it takes part only in works that name it
    flushes = False  # brings a bundle to the disk before it says that it is done

    @property
    def found(self) -> bool:
        return shutil.which(self.name) is not None

    def version(self) -> str:
        """What the program says about itself, in one line."""
        return said(self.name, "version")

    def command(self, step: Step, job: Job) -> Command:
        """Raises ``Cannot``."""
        match step:
            case Step.BUILD:
                return self.build(job)
            case Step.VERIFY:
                return self.verify(job)
            case Step.PUSH | Step.NOOP_PUSH:
                return self.push(job)
            case Step.SYNC | Step.NOOP_SYNC:
                return self.sync(job)

    def flushed(self, command: Command, job: Job) -> Command:
        """``command``, a build, with what it made brought to the disk after it where the tool does not do so itself."""
        if self.flushes:
            return command
        flush = ("sh", "-c", 'place=$1; shift; "$@" && sync -f "$place"', "sh", str(self.bundled(job)))
        return Command((*flush, *command.argv), command.environment, command.lines)

    def account(self, _said: str) -> Mapping[str, Any] | None:
        """The figures that the tool measured about itself, of what it ``said``; None where it says nothing."""
        return None

    def build(self, _job: Job) -> Command:
        raise Cannot("makes no bundle")

    def verify(self, _job: Job) -> Command:
        raise Cannot("has no check of a bundle")

    def push(self, _job: Job) -> Command:
        raise Cannot("pushes no bundle")

    def sync(self, _job: Job) -> Command:
        raise Cannot("copies nothing from registry to registry")

    def at_target(self, _step: Step, image: Image, _job: Job) -> tuple[str, str]:
        """Repository and tag (or digest) under which the image must be at the target."""
        return image.repository, image.tag

    def bundled(self, job: Job) -> Path:
        """The file or directory that a build makes."""
        return job.directory / self.output

    def bundled_blobs(self, corpus: Corpus) -> Mapping[str, int]:
        """The blobs that must be in it, each under its digest."""
        return corpus.blobs


class Syncer(Tool):
    name = "syncer"
    output = "bundle.tar.zst"
    flushes = True

    @property
    def found(self) -> bool:
        return True

    def version(self) -> str:
        return said(*SYNCER, "version")

    def account(self, said: str) -> Mapping[str, Any] | None:
        """Seconds of the run, of its CPU and disk, and of its requests by what they waited for."""
        found = _DOCUMENT.search(said)
        document = json.loads(found[0]) if found else {}
        if not document.get("measured"):
            return None
        waited: Counter[str] = Counter()
        for registry in document["registries"]:
            waited.update(registry["waited"])
        bound = document["bound"]
        return {**document["measured"], "waited": dict(waited), "bound": bound["text"] if bound else None}

    def build(self, job: Job) -> Command:
        place = ("--name", "bundle", "--output", str(job.directory))
        return self._command(job, "build", "--images-file", self._list(job), *place, *self._trust(job))

    def verify(self, job: Job) -> Command:
        return self._command(job, "verify", "--file", str(self.bundled(job)))

    def push(self, job: Job) -> Command:
        target = ("--registry", job.target, *self._trust(job))
        return self._command(job, "push", "--file", str(self.bundled(job)), *target)

    def sync(self, job: Job) -> Command:
        target = ("--registry", job.target, *self._trust(job))
        return self._command(job, "sync", "--images-file", self._list(job), *target)

    def at_target(self, _step: Step, image: Image, job: Job) -> tuple[str, str]:
        return f"{job.source.replace(':', '_')}/{image.repository}", image.tag

    def _list(self, job: Job) -> str:
        return job.write("images.txt", "".join(f"{job.at_source(image)}\n" for image in job.corpus.images))

    def _trust(self, job: Job) -> tuple[str, ...]:
        return ("--ca-cert", str(job.authority)) if job.authority else ()

    def _command(self, job: Job, *arguments: str) -> Command:
        return Command((*SYNCER, *arguments, "--json"), job.environment)


class SyncerOneRange(Syncer):
    """syncer as it was before a large blob came by several connections."""

    name = "syncer-one-range"
    is_variant = True

    def build(self, job: Job) -> Command:
        whole = super().build(job)
        return replace(whole, argv=(*whole.argv, "--ranges", "1"))


class Floor(Tool):
    """Not a tool that anybody has, but the least that the work can cost here: see ``lean``."""

    name = "floor"

    @property
    def found(self) -> bool:
        return True

    def version(self) -> str:
        return "benchmarks/lean.py"

    def command(self, step: Step, job: Job) -> Command:
        if step is Step.NOOP_PUSH:
            return self._lean("ask", job, job.target)
        if step is Step.NOOP_SYNC:
            return self._lean("ask both", job, job.source, job.target)
        return super().command(step, job)

    def build(self, job: Job) -> Command:
        return self._lean("pull", job, job.source, str(job.directory / "floor"))

    def push(self, job: Job) -> Command:
        return self._lean("push", job, job.target)

    def sync(self, job: Job) -> Command:
        return self._lean("relay", job, job.source, job.target)

    def _lean(self, verb: str, job: Job, *where: str) -> Command:
        trust = (str(job.authority),) if job.authority else ()
        return Command((sys.executable, "-m", "benchmarks.lean", verb, str(job.corpus.directory), *where, *trust))


def for_each_image(
    job: Job, argv: tuple[str, ...], operands: Callable[[Image], tuple[str, ...]], *, processes: int = PROCESSES
) -> Command:
    """A process for each image, some at a time."""
    lines = "".join(f"{' '.join(operands(image))}\n" for image in job.corpus.images)
    return Command(("xargs", "-P", str(processes), "-L", "1", *argv), job.environment, lines)


def said(*argv: str) -> str:
    """The first line of what a program prints."""
    return printed(*argv).partition("\n")[0]


def printed(*argv: str) -> str:
    """What a program prints, on its standard output or else on the other one."""
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (ended.stdout or ended.stderr).strip()
