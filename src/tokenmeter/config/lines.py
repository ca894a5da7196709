"""On which line of a TOML text each table, key and value stands: ``tomllib`` doesn't say.

The text is known to be valid, so this only has to find its way: it knows where keys, strings, arrays and inline
tables begin and end, and nothing of what scalars mean.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Mapping

Path = tuple["str | int", ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s.=\]\"'#]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL),
    re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def lines_of(text: str) -> Mapping[Path, int]:
    """The line of each place, from 1 on: ``("store", "url")``, ``("budgets", 0, "limit")``.

    Of a table it is the line of its header, of an element of an array the line on which it begins. ``text`` is
    valid TOML.
    """
    return _Scan(text).run()


class _Scan:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # arrays of tables, and how many there are so far

    def run(self) -> dict[Path, int]:
        here: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            here = self._header() if self._text[self._at] == "[" else self._pair(here)
            self._skip(_BLANK)
        return self._lines

    def _header(self) -> Path:
        line = self._line()
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        keys = self._key()
        self._at += 2 if several else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self._inside((*path, key), line)
        path = (*path, keys[-1])
        if several:
            number = self._tables.get(path, 0)
            self._tables[path] = number + 1
            self._lines.setdefault(path, line)
            path = (*path, number)
        self._lines[path] = line
        return path

    def _inside(self, path: Path, line: int) -> Path:
        """A table on the way to another one; of an array of tables, the last."""
        self._lines.setdefault(path, line)
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _pair(self, here: Path) -> Path:
        line = self._line()
        path = here
        for key in self._key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._at += 1  # the sign =
        self._value(path)
        return here

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                raw = self._string()
                keys.append(str(tomllib.loads(f"key = {raw}")["key"]))
            else:
                found = _BARE_KEY.match(self._text, self._at)
                assert found is not None, "this is no TOML"  # noqa: S101 - the caller has parsed the text
                keys.append(found[0])
                self._at = found.end()
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        start = self._text[self._at]
        if start in "\"'":
            self._string()
        elif start == "[":
            self._array(path)
        elif start == "{":
            self._inline(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        number = 0
        while not self._ends("]"):
            self._lines[(*path, number)] = self._line()
            self._value((*path, number))
            number += 1

    def _inline(self, path: Path) -> None:
        while not self._ends("}"):
            self._pair(path)

    def _ends(self, bracket: str) -> bool:
        """Step over an opening bracket or a comma; whether the closing one follows, and over that too."""
        self._skip(_BLANK)
        if self._text[self._at] != bracket:
            self._at += 1
            self._skip(_BLANK)
        if self._text[self._at] != bracket:
            return False
        self._at += 1
        return True

    def _string(self) -> str:
        for kind in _STRINGS:
            if found := kind.match(self._text, self._at):
                self._at = found.end()
                return found[0]
        raise AssertionError("this is no TOML")

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _line(self) -> int:
        return bisect_left(self._newlines, self._at) + 1
