"""Durations, numbers of bytes, ranges of numbers and shares of work in the way people write them."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from syncer.errors import UsageError

_BYTES = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kKMGT]?i?)(?P<of>B|bit)?")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def byte_count(text: str) -> int:
    """The number of bytes in ``50M``, ``64KiB`` or ``200Mbit``; raises ``UsageError``."""
    match = _BYTES.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    unit = match["unit"].replace("K", "k")
    factor = _BINARY.get(unit.removesuffix("i")) if unit.endswith("i") else _FACTORS[unit]
    if factor is None:
        raise UsageError(f"{text[:40]!r} is not a number of bytes", hint="write it like 50M, 64MiB or 200Mbit")
    count = int(float(match["number"]) * factor / (8 if match["of"] == "bit" else 1))
    if count < 1:
        raise UsageError(f"{text[:40]!r} is less than one byte")
    return count


def byte_count_or_none(text: str) -> int:
    """The number of bytes as ``byte_count`` has it, or 0 for ``0``; raises ``UsageError``."""
    return 0 if text.strip() == "0" else byte_count(text)


_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def parse_duration(text: str) -> float:
    """The number of seconds in ``90``, ``30s``, ``5m`` or ``1h30m``; raises ``UsageError``.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = _PART.findall(text)
    if not parts or "".join(map("".join, parts)) != text or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise UsageError(f"{text[:40]!r} is not a duration", hint="write it like 90s, 30m or 1h30m")
    seconds = float(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    if seconds <= 0:
        raise UsageError("a duration must be longer than 0 seconds", hint="write it like 90s, 30m or 1h30m")
    return seconds


@dataclass(frozen=True, slots=True)
class _Range:
    """The numbers ``{first..last}``, written with ``width`` digits at least."""

    first: int
    last: int
    width: int

    def __len__(self) -> int:
        return abs(self.last - self.first) + 1

    def __iter__(self) -> Iterator[str]:
        step = 1 if self.first <= self.last else -1
        return (f"{number:0{self.width}}" for number in range(self.first, self.last + step, step))


@dataclass(frozen=True, slots=True)
class Braces:
    """A text with ranges of numbers, which stands for one text for each number; several ranges for all combinations.

    >>> list(Braces.parse("site-{08..10}.{1..2}"))
    ['site-08.1', 'site-08.2', 'site-09.1', 'site-09.2', 'site-10.1', 'site-10.2']
    """

    parts: tuple[_Range | str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``text``; raises ``UsageError`` for braces that are no range."""
        parts: list[_Range | str] = []
        for number, part in enumerate(re.split(r"\{([0-9]{1,9}\.\.[0-9]{1,9})\}", text)):
            if number % 2:
                first, last = part.split("..")
                is_padded = any(len(each) > 1 and each.startswith("0") for each in (first, last))
                parts.append(_Range(int(first), int(last), max(len(first), len(last)) if is_padded else 1))
            elif set(part) & set("{}"):
                raise UsageError(f"{text[:160]!r} has braces that are no range", hint="write a range like {1..250}")
            else:
                parts.append(part)
        return cls(tuple(parts))

    @property
    def count(self) -> int:
        """The number of texts that it stands for."""
        return math.prod(len(part) for part in self.parts if isinstance(part, _Range))

    def __iter__(self) -> Iterator[str]:
        """The texts; the last range changes fastest."""
        choices = [part if isinstance(part, _Range) else (part,) for part in self.parts]
        return map("".join, itertools.product(*choices))


@dataclass(frozen=True, slots=True)
class CountOrShare:
    """A number of things of some kind, or a share of all of them if that is more.

    >>> CountOrShare.parse("25").allows(26, of=1000), CountOrShare.parse("25%").allows(26, of=1000)
    (False, True)
    """

    count: int = 0
    percent: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``N`` or ``P%``; raises ``UsageError``."""
        found = re.fullmatch(r"([0-9]{1,9})|([0-9]{1,3}(?:\.[0-9]{1,3})?)%", text.replace(" ", ""), re.ASCII)
        if found is None or float(found[2] or 0) > 100:
            raise UsageError(f"{text[:40]!r} is neither a number nor a share", hint="write it like 25 or 25%")
        return cls(count=int(found[1])) if found[1] else cls(percent=float(found[2]))

    def allows(self, number: int, *, of: int) -> bool:
        """Tell whether ``number`` things ``of`` so many are not too many."""
        return number <= max(self.count, of * self.percent / 100)

    def spell(self, things: str) -> str:
        """The words for it, such as ``10 tags or 10 %``."""
        parts = [f"{self.count} {things}"] if self.count or not self.percent else []
        return " or ".join([*parts, *([f"{self.percent:g} %"] if self.percent else [])])


_KUBERNETES = ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
_SLURM = "SLURM_ARRAY_TASK"


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` shares of the work; ``number`` counts from 1.

    A piece of work belongs to the same share on every machine and in every run, whatever others there are, as long as
    the number of shares stays.

    >>> [Shard(number, 3).takes("registry.example.com/mirror") for number in (1, 2, 3)].count(True)
    1
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Self:
        """Parse ``I/N``, ``auto`` or ``auto/N``, whose number ``environment`` tells; raises ``UsageError``.

        ``auto`` knows the number of shares in an array of SLURM's.  Kubernetes tells a Pod its index and not how many
        there are: it is in the variable ``JOB_COMPLETIONS``, if the Job's author put it there, or in ``auto/N``.
        """
        found = re.fullmatch(r"(?:(auto)|([0-9]{1,9}))(?:/([0-9]{1,9}))?", text.strip())
        if found is None or not (found[1] or found[3]):
            raise UsageError(f"{text[:40]!r} is not a shard", hint="write I/N, such as 3/16, or auto")
        count = int(found[3]) if found[3] else None
        number, count = _own_number(environment, count) if found[1] else (int(found[2]), count or 0)
        if not 1 <= number <= count:
            raise UsageError(f"there is no shard {number}/{count}", hint="the first is 1/N, and the last N/N")
        return cls(number, count)

    def takes(self, key: str) -> bool:
        """Tell whether ``key``, a site's or the name of a repository, belongs to this share."""
        digest = hashlib.sha256(key.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _own_number(environment: Mapping[str, str], count: int | None) -> tuple[int, int]:
    """The number from 1 of this process among its like, and how many there are; raises ``UsageError``."""

    def value(name: str) -> int | None:
        held = environment.get(name, "")
        if held and not re.fullmatch(r"[0-9]{1,9}", held, re.ASCII):
            raise UsageError(f"the variable {name} holds {held[:40]!r}, which is no number", hint="write --shard I/N")
        return int(held) if held else None

    index, completions = map(value, _KUBERNETES)
    if index is not None:
        if (total := count or completions) is None:
            raise UsageError(
                "Kubernetes does not tell a Pod how many completions its Job has",
                hint="write --shard auto/N, or set JOB_COMPLETIONS in the Pod to the Job's `completions`",
            )
        return index + 1, total
    number, tasks, first, last, step = (value(f"{_SLURM}_{name}") for name in ("ID", "COUNT", "MIN", "MAX", "STEP"))
    if number is None:
        raise UsageError(
            "nothing here tells which shard this is: JOB_COMPLETION_INDEX and SLURM_ARRAY_TASK_ID are not set",
            hint="run it in an Indexed Job or a job array, or write --shard I/N",
        )
    if count is not None:
        return number + 1, count
    if tasks is None or first is None:
        raise UsageError(
            "SLURM_ARRAY_TASK_COUNT and SLURM_ARRAY_TASK_MIN are not set",
            hint="write --shard auto/N for an array from 0",
        )
    step = step or 1
    place = (number - first) // step
    is_regular = (number - first) % step == 0 and (last is None or (last - first) // step + 1 == tasks)
    if not is_regular:
        raise UsageError(
            "the tasks of this SLURM array are not evenly numbered",
            hint="write --array=0-15, or --shard auto/N for some tasks of such an array",
        )
    return place + 1, tasks
