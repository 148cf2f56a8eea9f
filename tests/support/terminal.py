"""A terminal as people see it: lines of characters, a cursor, and the few control sequences that a display writes."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([\d;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")
_MARK = "\x00"  # where the cursor is, while lines are broken anew


class Terminal:
    """A terminal of so many columns and of any height, which breaks its lines anew when its width changes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.row = self.column = 0
        self._rows = [""]
        self._breaks = True  # lines that are too long; else they are cut
        self._joined: set[int] = set()  # rows that go on with the row before them

    @property
    def lines(self) -> list[str]:
        """The rows to the last one that is not empty."""
        return "\n".join(row.rstrip() for row in self._rows).rstrip("\n").split("\n")

    def feed(self, text: str) -> None:
        """Show ``text``, and do what its control sequences say; colours are left out."""
        found = 0
        for token in _TOKEN.finditer(text):
            found += len(token[0])
            self._take(token)
        assert found == len(text), f"a sequence that this terminal does not know: {text!r}"

    def resize(self, width: int) -> None:
        """Change the width: what was one line is one line still, and the cursor stays at its character."""
        row = self._rows[self.row].ljust(self.column)
        self._rows[self.row] = row[: self.column] + _MARK + row[self.column :]
        whole: list[str] = []
        for number, text in enumerate(self._rows):
            if number in self._joined:
                whole[-1] += text
            else:
                whole.append(text)
        self.width, self._rows, self._joined = width, [], set()
        for line in whole:
            before, mark, after = line.partition(_MARK)
            if mark:
                self.row, self.column = len(self._rows) + len(before) // width, len(before) % width
            self._put_rows(before + after)

    def _put_rows(self, line: str) -> None:
        first = len(self._rows)
        self._rows += [line[at : at + self.width] for at in range(0, max(1, len(line)), self.width)]
        self._joined |= set(range(first + 1, len(self._rows)))

    def _take(self, token: re.Match[str]) -> None:
        match token[2] or token[0]:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
                if self.row == len(self._rows):
                    self._rows.append("")
            case "A":
                self.row -= int(token[1] or 1)
                assert self.row >= 0
            case "J":
                self._rows[self.row :] = [self._rows[self.row][: self.column]]
                self._joined = {row for row in self._joined if row <= self.row}
            case "K":
                self._rows[self.row] = self._rows[self.row][: self.column]
            case "m":
                pass
            case "h" | "l" if token[1] == "?7":
                self._breaks = token[2] == "h"
            case text if token[2] is None:
                self._print(text)
            case other:
                raise AssertionError(f"a sequence that this terminal does not know: {other}")

    def _print(self, text: str) -> None:
        row = self._rows[self.row].ljust(self.column)
        if not self._breaks:
            text = text[: max(0, self.width - 1 - self.column)]
        end = self.column + len(text)
        assert end < self.width, "a line that fills the terminal breaks where another one begins"
        self._rows[self.row] = row[: self.column] + text + row[end:]
        self.column = end
