"""Whether syncer became slower between two runs: by its ratios to the others, which a slower machine leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Row, Spread, fastest, rows_of

_OURS = ("syncer", "syncer-one-range")  # which get slower with it

TOLERANCE = 0.10
"""How much worse a median ratio may be before it counts, if the spreads do not touch either."""


@dataclass(frozen=True, slots=True)
class Change:
    """syncer's wall time at one step, divided by that of ``against``, in both runs."""

    work: str
    step: str
    against: str
    old: Spread
    new: Spread

    @property
    def factor(self) -> float:
        return self.new.median / self.old.median

    @property
    def is_regression(self) -> bool:
        return self.factor > 1 + TOLERANCE and self.new.low > self.old.high

    def __str__(self) -> str:
        verdict = "REGRESSION" if self.is_regression else "ok"
        return (
            f"{verdict:10} {self.factor:5.2f} ×  {self.step}: {self.work}, against {self.against}: "
            f"{self.old.median:.2f} ({self.old.low:.2f}–{self.old.high:.2f}) → "
            f"{self.new.median:.2f} ({self.new.low:.2f}–{self.new.high:.2f})"
        )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """One for each step that both runs measured, against the fastest tool that took part in both."""
    before, after = rows_of(old), rows_of(new)
    for row in after:
        earlier = _same(row, before)
        if row.tool != "syncer" or earlier is None:
            continue
        others = (other for other in before if other.key == row.key and other.tool not in _OURS)
        shared = [other for other in others if _same(other, after)]
        other = fastest(shared, lambda _: True)
        if other is None:
            continue
        new_other = _same(other, after)
        assert new_other
        old_ratio, new_ratio = earlier.ratio_to(other, "wall"), row.ratio_to(new_other, "wall")
        if old_ratio and new_ratio:
            yield Change(row.work, row.step, other.tool, old_ratio, new_ratio)


def _same(row: Row, rows: Sequence[Row]) -> Row | None:
    return next((other for other in rows if (other.key, other.tool) == (row.key, row.tool)), None)
