"""Expressions of RE2, which Go's tools take, as expressions of Python that choose the same tags.

The syntax is that of Go's ``regexp/syntax`` with Perl's extensions; what RE2 refuses is refused here too.  RE2 itself
is a large library in C++, and a sync file is to mean the same on every machine: so an expression is translated once,
when a file is imported.  The result only tells whether a text matches: groups keep nothing, and no repetition is lazy.
It is meant for ``re.ASCII`` and for texts of one line in ASCII, as tags are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TypeAlias

from msgspec import Struct, field, structs

from syncer.errors import UsageError

_Class: TypeAlias = frozenset[int]
"""The code points of a class that are ASCII: no tag has others."""

_ALL: _Class = frozenset(range(128))
_CATEGORY = {code: unicodedata.category(chr(code)) for code in _ALL}
_LETTERS = frozenset(code for code, name in _CATEGORY.items() if name.startswith("L"))
_CATEGORIES = re.compile("L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfos]?")


def _of(pattern: str) -> _Class:
    return frozenset(code for code in _ALL if re.fullmatch(f"[{pattern}]", chr(code)))


_PERL = {"d": _of("0-9"), "s": _of(r"\t\n\f\r "), "w": _of("0-9A-Za-z_")}
_POSIX = {
    "alnum": _of("0-9A-Za-z"),
    "alpha": _of("A-Za-z"),
    "ascii": _ALL,
    "blank": _of(r"\t "),
    "cntrl": _of(r"\x00-\x1f\x7f"),
    "digit": _of("0-9"),
    "graph": _of("!-~"),
    "lower": _of("a-z"),
    "print": _of(" -~"),
    "punct": _of(r"!-/:-@\[-`{-~"),
    "space": _of(r"\t\n\v\f\r "),
    "upper": _of("A-Z"),
    "word": _of("0-9A-Za-z_"),
    "xdigit": _of("0-9A-Fa-f"),
}
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_FOLDED = {0x17F: "s", 0x212A: "k"}  # not ASCII, and equal to a letter of ASCII where case does not count

_REPEAT = re.compile(r"\{(0|[1-9][0-9]*)(?:(,)(0|[1-9][0-9]*)?)?\}")
_GROUP_NAME = re.compile(r"P?<([A-Za-z0-9_]+)>")
_GROUP_FLAGS = re.compile(r"([imsU]*)(?:-([imsU]+))?([:)])")
_OCTAL = re.compile(r"[1-7][0-7]{1,2}|0[0-7]{0,2}")
_CODE = re.compile(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,8})\})")
_PROPERTY = re.compile(r"([pP])(?:\{(\^?)([A-Za-z_]+)\}|([A-Z]))")
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")
_MOST_REPEATS = 1000
_DEEPEST = 100


def whole_match(text: str) -> str:
    r"""Translate ``text`` into an expression that matches the whole tag when RE2 finds ``text`` anywhere in the tag.

    Raises ``UsageError`` for a text that RE2 refuses, and for a class of Unicode that is not known here.

    >>> whole_match("^1[.]13$"), whole_match("alpine"), whole_match("^v.*-rc|latest$")
    ('1\\.13', '.*alpine.*', 'v.*-rc.*|.*latest')
    """
    return "|".join(map(_whole, _Translator(text).all()))


def _whole(pieces: list[_Piece]) -> str:
    begins = bool(pieces) and pieces[0].anchor == "^"
    pieces = pieces[begins:]
    ends = bool(pieces) and pieces[-1].anchor == "$"
    pieces = pieces[: len(pieces) - ends]
    if not pieces:
        return "" if begins and ends else ".*"
    return f"{'' if begins else '.*'}{_sequence(pieces)}{'' if ends else '.*'}"


class _Flags(Struct, frozen=True):
    fold: bool = False
    lines: bool = False
    dot_all: bool = False


class _Piece(Struct, frozen=True):
    """A part of a sequence in Python's notation; ``anchor`` is ``^`` or ``$`` for an end of the whole text."""

    text: str
    anchor: str = ""
    fold: bool = False
    single: bool = True  # a repetition may follow it without brackets


class _Translator(Struct):
    source: str
    place: int = 0
    flags: _Flags = field(default_factory=_Flags)
    depth: int = 0

    def all(self) -> list[list[_Piece]]:
        found = self._alternatives()
        if self.place < len(self.source):
            raise self._error("a ) closes nothing")
        return found

    def _alternatives(self) -> list[list[_Piece]]:
        """Read up to the end of the text, or to the bracket that closes a group."""
        found: list[list[_Piece]] = [[]]
        repeated = False
        while self.place < len(self.source) and self.source[self.place] != ")":
            if self._skip("|"):
                found.append([])
                repeated = False
            elif sign := self._repetition():
                if repeated or not found[-1]:
                    raise self._error(f"{sign} repeats {'a repetition' if repeated else 'nothing'}")
                last = found[-1][-1]
                inner = last.text if last.single else f"(?:{last.text})"
                found[-1][-1] = _Piece(inner + sign, fold=last.fold, single=False)
                repeated = True
            else:
                found[-1] += self._pieces()
                repeated = False
        return found

    def _repetition(self) -> str | None:
        """Take a repetition, without the ``?`` that makes it lazy; None when none stands here."""
        sign = self.source[self.place]
        if sign in "*+?":
            self.place += 1
        elif match := _REPEAT.match(self.source, self.place):
            sign = match[0]
            if int(match[1]) > _MOST_REPEATS or not int(match[1]) <= int(match[3] or match[1]) <= _MOST_REPEATS:
                raise self._error(f"{sign} is not a number of repetitions")
            self.place = match.end()
        else:
            return None
        self._skip("?")
        return sign

    def _pieces(self) -> list[_Piece]:
        """Take one part of a sequence; flags have no piece, and a quotation has many."""
        head = self.source[self.place]
        self.place += 1
        match head:
            case "(":
                return self._group()
            case "[":
                return [self._class()]
            case ".":
                return [_Piece(r"[\s\S]" if self.flags.dot_all else ".", fold=self.flags.fold)]
            case "^" | "$":
                return [_Piece(f"(?m:{head})", single=False) if self.flags.lines else _end_of_text(head)]
            case "\\":
                return self._escape()
            case _:
                return [self._literal(head)]

    def _literal(self, character: str) -> _Piece:
        if self.flags.fold:
            character = _FOLDED.get(ord(character), character)
        return _Piece(_quoted(character), fold=self.flags.fold)

    def _group(self) -> list[_Piece]:
        outside = self.flags
        if self._skip("?"):
            if name := _GROUP_NAME.match(self.source, self.place):
                self.place = name.end()
            elif not self._opens_group():
                return []  # flags for the rest of the group that they stand in
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._error("its groups are nested too deeply")
        text = "|".join(map(_sequence, self._alternatives()))
        if not self._skip(")"):
            raise self._error("a closing ) is missing")
        self.flags, self.depth = outside, self.depth - 1
        return [_Piece(f"(?:{text})")]

    def _opens_group(self) -> bool:
        """Take ``i-s:`` or ``i-s)`` and set these flags; True when a group follows."""
        match = _GROUP_FLAGS.match(self.source, self.place)
        if match is None:
            raise self._error(f"it has no (?{self.source[self.place : self.place + 2]}")
        self.place = match.end()
        for letters, on in ((match[1], True), (match[2] or "", False)):
            for letter in letters.replace("U", ""):  # U is about lazy repetitions only
                self.flags = structs.replace(self.flags, **{{"i": "fold", "m": "lines", "s": "dot_all"}[letter]: on})
        return match[3] == ":"

    def _escape(self) -> list[_Piece]:
        head = self.source[self.place : self.place + 1]
        if self._skip("Q"):
            literal, end, _ = self.source[self.place :].partition(r"\E")
            self.place += len(literal) + len(end)
            return [self._literal(character) for character in literal]
        if head and head in "AzbB":
            self.place += 1
            return [_Piece(f"\\{head}", single=False) if head in "bB" else _end_of_text("^" if head == "A" else "$")]
        if head and head in "dDwW":
            self.place += 1
            return [_Piece(f"\\{head}", fold=self.flags.fold)]
        if (named := self._named_class()) is not None:
            return [_Piece(_spelt(named), fold=self.flags.fold)]
        return [self._literal(self._character())]

    def _character(self) -> str:
        """Take the one character that follows a backslash."""
        if octal := _OCTAL.match(self.source, self.place):
            self.place = octal.end()
            return chr(int(octal[0], 8))
        if code := _CODE.match(self.source, self.place):
            self.place = code.end()
            if (number := int(code[1] or code[2], 16)) > 0x10FFFF:
                raise self._error(f"\\{code[0]} is no character")
            return chr(number)
        head = self.source[self.place : self.place + 1]
        self.place += 1
        if not head:
            raise self._error("it ends with a backslash")
        if not head.isascii() or (head.isalnum() and head not in _CONTROLS):
            raise self._error(f"it has no \\{head}")
        return _CONTROLS.get(head, head)

    def _class(self) -> _Piece:
        """Take a class up to its closing bracket."""
        negated = self._skip("^")
        found: _Class = frozenset()
        first = True
        while first or not self._skip("]"):
            first = False
            if posix := _POSIX_CLASS.match(self.source, self.place):
                if posix[2] not in _POSIX:
                    raise self._error(f"it has no class {posix[0]}")
                self.place = posix.end()
                found |= self._folded(_POSIX[posix[2]], negated=bool(posix[1]))
            elif self._skip("\\"):
                named = self._named_class()
                found |= self._range(self._character()) if named is None else named
            else:
                found |= self._range(self._next())
        return _Piece(_spelt(found, negated=negated), fold=self.flags.fold)

    def _range(self, low: str) -> _Class:
        high = low
        if self.source.startswith("-", self.place) and not self.source.startswith("-]", self.place):
            self.place += 1
            high = self._next()
            high = self._character() if high == "\\" else high
        if high < low:
            raise self._error(f"{low}-{high} is not a range of characters")
        codes = range(ord(low), ord(high) + 1)
        folded = (ord(letter) for code, letter in _FOLDED.items() if self.flags.fold and code in codes)
        return self._folded(frozenset(code for code in _ALL if code in codes) | frozenset(folded), negated=False)

    def _next(self) -> str:
        character = self.source[self.place : self.place + 1]
        if not character:
            raise self._error("a closing ] is missing")
        self.place += 1
        return character

    def _named_class(self) -> _Class | None:
        r"""Take what follows the backslash of a class such as ``\s`` or ``\p{Lu}``; None when it is no class."""
        if match := _PROPERTY.match(self.source, self.place):
            self.place = match.end()
            return self._folded(self._property(match[3] or match[4]), negated=(match[1] == "P") != (match[2] == "^"))
        head = self.source[self.place : self.place + 1]
        if not head or head.lower() not in _PERL:
            return None
        self.place += 1
        return self._folded(_PERL[head.lower()], negated=head.isupper())

    def _property(self, name: str) -> _Class:
        if _CATEGORIES.fullmatch(name):
            return frozenset(code for code, category in _CATEGORY.items() if category.startswith(name))
        known = {"Any": _ALL, "Latin": _LETTERS, "Common": _ALL - _LETTERS}
        if name not in known:
            raise self._error(f"the class {name[:40]} is not known here")
        return known[name]

    def _folded(self, codes: _Class, *, negated: bool) -> _Class:
        if self.flags.fold:
            codes = frozenset(ord(each) for code in codes for each in {chr(code).lower(), chr(code).upper()})
        return _ALL - codes if negated else codes

    def _skip(self, text: str) -> bool:
        found = self.source.startswith(text, self.place)
        self.place += len(text) if found else 0
        return found

    def _error(self, problem: str) -> UsageError:
        return UsageError(f"{self.source[:160]!r} is not an expression of RE2: {problem}")


def _end_of_text(anchor: str) -> _Piece:
    return _Piece(r"\A" if anchor == "^" else r"\Z", anchor, single=False)


def _sequence(pieces: Iterable[_Piece]) -> str:
    runs = ((fold, "".join(piece.text for piece in run)) for fold, run in groupby(pieces, lambda piece: piece.fold))
    return "".join(f"(?i:{text})" if fold and re.search("[A-Za-z]", text) else text for fold, text in runs)


def _quoted(character: str) -> str:
    """The character as an expression; what is not ASCII, and so in no tag, stays as it is."""
    return re.escape(character) if character in r"\.^$*+?{}[]|()" or not character.isprintable() else character


def _spelt(codes: _Class, *, negated: bool = False) -> str:
    """A class of Python's for ``codes``, or for all characters but these."""
    if not codes:
        return r"[\s\S]" if negated else r"[^\s\S]"
    if len(codes) == 1 and not negated:
        return _quoted(chr(min(codes)))
    return f"[{'^' if negated else ''}{''.join(_ranges(sorted(codes)))}]"


def _ranges(codes: list[int]) -> Iterator[str]:
    for _, group in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        run = [chr(code) for _, code in group]
        first, last = (re.escape(each) if not each.isalnum() else each for each in (run[0], run[-1]))
        yield first if len(run) == 1 else f"{first}{last}" if len(run) == 2 else f"{first}-{last}"
