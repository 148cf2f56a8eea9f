"""Whether a tool has made what it says that it made: after every step of every round."""

from __future__ import annotations

from benchmarks import lean
from benchmarks.jobs import Job, Step
from benchmarks.outputs import problem_with
from benchmarks.servers import Server
from benchmarks.tools import Tool


class WrongResult(Exception):
    """A tool ended well, but what it should have made is not there."""


def check(tool: Tool, step: Step, job: Job, target: Server | None, *, hashed: bool) -> None:
    """Each image's digest at the target, or each blob in the bundle, whose bytes are read when ``hashed``.

    Raises ``WrongResult``.
    """
    problem = None
    if step is Step.BUILD and tool.output:
        problem = problem_with(tool.bundled(job), tool.bundled_blobs(job.corpus), hashed=hashed)
    elif step.needs_target and target:
        expected = [(*tool.at_target(step, image, job), image) for image in job.corpus.images]
        wrong = lean.missing(expected, target.address, job.authority)
        problem = f"{len(wrong)} images are not at the target, such as {wrong[0]}" if wrong else None
    if problem:
        raise WrongResult(problem)
