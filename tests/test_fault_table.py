"""tests/README.md maps every row of the fault model to tests that exist, and SECURITY.md every claim."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = (HERE / "README.md").read_text()
CLAIMS = (HERE.parent / "SECURITY.md").read_text()


def test_every_row_of_the_fault_model_has_tests() -> None:
    rows = {int(found[1]) for found in re.finditer(r"^\| (\d+) \| .+ \| `test_.+` \|$", TABLE, re.MULTILINE)}

    assert rows == set(range(1, max(rows) + 1))
    assert len(rows) >= 51


def test_every_test_that_the_table_names_exists() -> None:
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE + CLAIMS):
        assert re.search(rf"^(?:async )?def {name}\(", (HERE / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_every_module_that_the_table_names_exists() -> None:
    assert all((HERE / file).is_file() for file in re.findall(r"`(test_\w+\.py)`", TABLE))


def test_every_claim_about_a_threat_has_tests() -> None:
    """Each row of a table with a column for them, but for its head and the line below that."""
    tables = re.findall(r"^\| threat \| .+ \| held by \|\n\|[-|]+\|\n((?:\|.+\n)+)", CLAIMS, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]

    assert len(tables) == CLAIMS.count("| held by |")
    assert [row for row in rows if not re.search(r"\| (?:`test_\w+\.py::test_\w+`(?:, )?)+ \|$", row)] == []
