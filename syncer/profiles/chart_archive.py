"""What lies inside the archive of a Helm chart."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

from syncer.profiles.archive import read_archive

_SUFFIXES = (".yaml", ".yml", ".tpl")


@dataclass(frozen=True, slots=True)
class ChartFile:
    """A text file of a chart; ``folder`` is the chart or subchart that it belongs to."""

    path: str
    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def read_chart_files(content: bytes, origin: Path | str) -> list[ChartFile]:
    """The YAML files and templates in the archive, subcharts included; raises ``InvalidFile``."""
    members = read_archive(io.BytesIO(content), origin, lambda path: path.endswith(_SUFFIXES))
    return [ChartFile(path, content.decode("utf-8", "replace")) for path, content in members]
