"""Outcomes out of a CSV file, for whatever system has an export and no importer.

The first line names the columns. ``kind``, ``key`` and ``at`` are needed; the others have the names of an outcome's
fields. A line whose ``revoked_at`` is filled takes its outcome back.
"""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.harvest import Harvest, Revocation
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds, new_outcome

NEEDED: Final = ("kind", "key", "at")
COLUMNS: Final = (
    *NEEDED, "team", "user", "run", "agents", "weight", "confidence", "fold", "accepted_by", "revoked_at", "why",
)  # fmt: skip
MAX_LINES: Final = 1_000_000
_DATE: Final = re.compile(r"(?:19|20)[0-9]{2}(?:[0-9]{4})?")  # 2026 and 20261129 are no seconds of 1970


def read_csv(lines: Iterable[str], *, kinds: Kinds = BUILT_IN) -> Harvest:
    """The outcomes and revocations of a file; ``agents`` are parted by spaces, times are ISO 8601 or seconds.

    Raises:
        ConfigError: a column that is missing or unknown, or a value that makes no sense; the text names the line.
    """
    reader = csv.DictReader(lines, strict=True)
    try:
        _check([name.strip() for name in reader.fieldnames or ()])
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        outcomes, revocations = [], []
        for row in reader:
            if reader.line_num > MAX_LINES:
                raise ConfigError(f"there are more than {MAX_LINES:,} lines; cut the file in parts")
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise ConfigError(f"{where} has another number of cells than the first; quote cells that have commas")
            cells = {name: value.strip() for name, value in row.items() if value.strip()}
            try:
                kind, key = cells.pop("kind", ""), cells.pop("key", "")
                at_s = _moment("at", cells.pop("at", ""))
                revoked, why = cells.pop("revoked_at", None), cells.pop("why", "")
                numbers = {name: _number(name, cells.pop(name)) for name in ("weight", "confidence") if name in cells}
                agents = cells.pop("agents", "").split()
                outcomes.append(
                    new_outcome(kind, key, at_s, agents=agents, source="csv", kinds=kinds, **numbers, **cells)  # type: ignore[arg-type]
                )
                if revoked is not None:
                    revocations.append(Revocation(kind, key, _moment("revoked_at", revoked), why or "revoked"))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    except csv.Error as error:
        raise ConfigError(f"line {reader.line_num} is no CSV: {error}") from None
    return Harvest(tuple(outcomes), tuple(revocations))


def _check(names: list[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise ConfigError(f"the first line names no column {', '.join(missing)}; it needs {','.join(NEEDED)}")
    for name in names:
        if name not in COLUMNS:
            raise ConfigError(f"column {name!r} is unknown; the columns are {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise ConfigError(f"column {name!r} stands there twice; leave one out")


def _moment(what: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds) and not _DATE.fullmatch(text):
            return seconds
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{what} is {text!r}; write ISO 8601 such as 2026-12-01T09:00Z, or seconds") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _number(what: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{what} is {text!r}; write a number such as 0.5") from None
