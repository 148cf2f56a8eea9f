"""The peers, as each is told to do the same work.  Those that are on PATH take part."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import yaml

from benchmarks.corpus import Corpus, Image
from benchmarks.jobs import Cannot, Job, Step, flat_name
from benchmarks.resources import Command
from benchmarks.tools import PROCESSES, Floor, Syncer, SyncerOneRange, Tool, for_each_image, printed, said


class Imgpkg(Tool):
    """Pushes everything into one repository, and gives up the tags: an easier job."""

    name = "imgpkg"
    output = "images.tar"

    def build(self, job: Job) -> Command:
        return self._copy(job, "--lock", self._lock(job), "--to-tar", str(self.bundled(job)))

    def push(self, job: Job) -> Command:
        return self._copy(job, "--tar", str(self.bundled(job)), "--to-repo", f"{job.target}/everything")

    def sync(self, job: Job) -> Command:
        return self._copy(job, "--lock", self._lock(job), "--to-repo", f"{job.target}/everything")

    def at_target(self, _step: Step, image: Image, _job: Job) -> tuple[str, str]:
        return "everything", image.digest

    def bundled_blobs(self, corpus: Corpus) -> Mapping[str, int]:
        return corpus.layers  # the configs lie within its own list of images

    def _lock(self, job: Job) -> str:
        images = [{"image": f"{job.source}/{image.repository}@{image.digest}"} for image in job.corpus.images]
        lock = {"apiVersion": "imgpkg.carvel.dev/v1alpha1", "kind": "ImagesLock", "images": images}
        return job.write("lock.yaml", yaml.safe_dump(lock))

    def _copy(self, job: Job, *arguments: str) -> Command:
        insecure = () if job.authority else ("--registry-insecure",)
        return Command(("imgpkg", "copy", *arguments, "--concurrency", "16", *insecure), job.environment)


class Crane(Tool):
    name = "crane"
    output = "layout"
    pushes_layouts = True

    def build(self, job: Job) -> Command:
        images = map(job.at_source, job.corpus.images)
        return Command(("crane", "pull", "--format=oci", *images, str(self.bundled(job))), job.environment)

    def push(self, job: Job) -> Command:
        return for_each_image(job, ("crane", "push"), lambda image: (str(job.layout(image)), job.to_target(image)))

    def sync(self, job: Job) -> Command:
        return for_each_image(job, ("crane", "copy"), lambda image: (job.at_source(image), job.to_target(image)))


class Skopeo(Tool):
    name = "skopeo"
    output = "layout"
    pushes_layouts = True

    def version(self) -> str:
        return said("skopeo", "--version")

    def build(self, job: Job) -> Command:
        """One after the other: two at a time would both write the layout's index."""
        return for_each_image(
            job,
            ("skopeo", "copy", "--all", *self._tls("src", job)),
            lambda image: (f"docker://{job.at_source(image)}", f"oci:{self.bundled(job)}:{flat_name(image)}"),
            processes=1,
        )

    def push(self, job: Job) -> Command:
        return for_each_image(
            job,
            ("skopeo", "copy", "--all", *self._tls("dest", job)),
            lambda image: (f"oci:{job.layout(image)}", f"docker://{job.to_target(image)}"),
        )

    def sync(self, job: Job) -> Command:
        images: dict[str, list[str]] = {}
        for image in job.corpus.images:
            images.setdefault(image.repository, []).append(image.tag)
        source = {"images": images, "tls-verify": job.authority is not None}
        listed = job.write("sync.yaml", yaml.safe_dump({job.source: source}))
        ends = ("--src", "yaml", "--dest", "docker", *self._tls("dest", job))
        return Command(("skopeo", "sync", "--all", *ends, listed, f"{job.target}/synced"), job.environment)

    def at_target(self, step: Step, image: Image, _job: Job) -> tuple[str, str]:
        if step in (Step.SYNC, Step.NOOP_SYNC):
            return f"synced/{image.repository.rpartition('/')[2]}", image.tag
        return image.repository, image.tag

    def _tls(self, end: str, job: Job) -> tuple[str, ...]:
        return () if job.authority else (f"--{end}-tls-verify=false",)


class Regctl(Tool):
    name = "regctl"
    output = "layout"
    pushes_layouts = True

    def build(self, job: Job) -> Command:
        """One after the other: two at a time would both write the layout's index."""
        return self._copy(job, job.at_source, lambda image: f"ocidir://{self.bundled(job)}:{flat_name(image)}", 1)

    def push(self, job: Job) -> Command:
        return self._copy(job, lambda image: f"ocidir://{job.layout(image)}:image", job.to_target)

    def sync(self, job: Job) -> Command:
        return self._copy(job, job.at_source, job.to_target)

    def _copy(
        self, job: Job, source: Callable[[Image], str], target: Callable[[Image], str], processes: int = PROCESSES
    ) -> Command:
        plain = [] if job.authority else [f"--host=reg={end},tls=disabled" for end in (job.source, job.target) if end]
        argv = ("regctl", *plain, "image", "copy")
        return for_each_image(job, argv, lambda image: (source(image), target(image)), processes=processes)


class Oras(Tool):
    name = "oras"
    output = "layout"
    pushes_layouts = True

    def build(self, job: Job) -> Command:
        """One after the other: two at a time would both write the layout's index."""
        argv = ("oras", "cp", "--no-tty", "--to-oci-layout", *self._plain("from", job))
        into = self.bundled(job)
        return for_each_image(
            job, argv, lambda image: (job.at_source(image), f"{into}:{flat_name(image)}"), processes=1
        )

    def push(self, job: Job) -> Command:
        argv = ("oras", "cp", "--no-tty", "--from-oci-layout", *self._plain("to", job))
        return for_each_image(job, argv, lambda image: (f"{job.layout(image)}:image", job.to_target(image)))

    def sync(self, job: Job) -> Command:
        argv = ("oras", "cp", "--no-tty", *self._plain("from", job), *self._plain("to", job))
        return for_each_image(job, argv, lambda image: (job.at_source(image), job.to_target(image)))

    def _plain(self, end: str, job: Job) -> tuple[str, ...]:
        return () if job.authority else (f"--{end}-plain-http",)


class Hauler(Tool):
    """Its store, an OCI layout, stands for the bundle: the archive made of it would be a second copy."""

    name = "hauler"
    output = "store"

    def version(self) -> str:
        told = json.loads(printed("hauler", "version", "--json"))  # its text begins with a banner
        return f"hauler {told['gitVersion']}"

    def build(self, job: Job) -> Command:
        images = [{"name": job.at_source(image), "exclude-extras": True} for image in job.corpus.images]
        manifest = {
            "apiVersion": "content.hauler.cattle.io/v1",
            "kind": "Images",
            "metadata": {"name": job.corpus.name},
            "spec": {"images": images},
        }
        listed = job.write("hauler.yaml", yaml.safe_dump(manifest))
        return self._store(job, "sync", "--filename", listed)

    def push(self, job: Job) -> Command:
        plain = () if job.authority else ("--plain-http",)
        return self._store(job, "copy", f"registry://{job.target}", *plain)

    def _store(self, job: Job, *arguments: str) -> Command:
        return Command(("hauler", "store", *arguments, "--store", str(self.bundled(job))), job.environment)


class Regsync(Tool):
    """A whole list from one file, as many images at a time as imgpkg is told to take."""

    name = "regsync"

    def sync(self, job: Job) -> Command:
        tls = "enabled" if job.authority else "disabled"
        settings = {
            "version": 1,
            "creds": [{"registry": end, "tls": tls} for end in (job.source, job.target)],
            "defaults": {"parallel": 16},
            "sync": [
                {"source": job.at_source(image), "target": job.to_target(image), "type": "image"}
                for image in job.corpus.images
            ],
        }
        listed = job.write("regsync.yaml", yaml.safe_dump(settings))
        return Command(("regsync", "--verbosity", "warn", "once", "--config", listed), job.environment)


class Ocync(Tool):
    """Remembers in its cache what a target has, as it does for its users: a run with nothing to do reads that."""

    name = "ocync"

    def sync(self, job: Job) -> Command:
        if not job.authority:
            raise Cannot("speaks nothing but TLS")
        tags: dict[str, list[str]] = {}
        for image in job.corpus.images:
            tags.setdefault(image.repository, []).append(image.tag)
        settings = {
            "global": {"cache_dir": str(job.directory)},
            "registries": {
                "source": {"url": f"https://{job.source}", "auth_type": "anonymous"},
                "target": {"url": f"https://{job.target}", "auth_type": "anonymous"},
            },
            "defaults": {"source": "source", "targets": "target", "artifacts": {"enabled": False}},
            "mappings": [
                {"from": repository, "to": repository, "tags": {"glob": wanted}} for repository, wanted in tags.items()
            ],
        }
        return Command(("ocync", "sync", "-c", job.write("ocync.yaml", yaml.safe_dump(settings))), job.environment)


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Syncer(),
        SyncerOneRange(),
        Floor(),
        Imgpkg(),
        Crane(),
        Skopeo(),
        Regctl(),
        Oras(),
        Regsync(),
        Hauler(),
        Ocync(),
    )
}
"""By the name on the command line."""
