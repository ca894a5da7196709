"""Outcomes out of JUnit reports: a suite that passed, as a whole, for the commit or the change that it checked.

A report is one outcome, however many tests it has: tests can be cut as finely as one likes. A document type is refused
before anything of it is used, so that no entity can grow without bound or read a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from xml.parsers import expat

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.harvest import Harvest
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds, new_outcome

MAX_BYTES: Final = 64 * 1024 * 1024
_ROOTS: Final = frozenset({"testsuites", "testsuite"})


@dataclass(frozen=True, slots=True)
class Results:
    """What a report says. Counts are those of the test cases in it; ``failed`` is what a suite sums up, if more."""

    name: str
    tests: int
    failed: int
    skipped: int
    at_s: float | None

    @property
    def passed(self) -> bool:
        """Whether something ran and nothing failed."""
        return self.tests > self.skipped and not self.failed


def read_junit(
    report: bytes,
    *,
    key: str,
    at_s: float | None = None,
    team: str | None = None,
    user: str | None = None,
    run: str | None = None,
    fold: str | None = None,
    accepted_by: str = "ci",
    kinds: Kinds = BUILT_IN,
) -> Harvest:
    """One outcome if the report passed. ``key`` names what was checked, as ``api@3f1c2d``; so does ``fold``.

    Raises:
        ConfigError: no JUnit report, one with a document type, one that is too large, or no time in it nor given.
    """
    results = parse_junit(report)
    if not results.passed:
        why = f"{results.failed} of {results.tests} failed" if results.failed else "nothing ran"
        return Harvest(left_out=(f"checks {key}: {why}",))
    at_s = results.at_s if at_s is None else at_s
    if at_s is None:
        raise ConfigError(f"the report {results.name!r} has no timestamp; give the time that it ran")
    counts = (("suite", (results.name or "tests")[:256]), ("tests", str(results.tests)))
    outcome = new_outcome(
        "checks", key, at_s, team=team, user=user, run=run, fold=fold or key, accepted_by=accepted_by, source="junit",
        attributes=counts, kinds=kinds,
    )  # fmt: skip
    return Harvest((outcome,))


def parse_junit(report: bytes) -> Results:
    """The results in a report."""
    if len(report) > MAX_BYTES:
        raise ConfigError(f"the report has {len(report):,} bytes; at most {MAX_BYTES:,} are read")
    reading = _Reading()
    try:
        reading.parser.Parse(report, True)
    except expat.ExpatError as error:
        raise ConfigError(f"the report is no XML: {error}; give a file that a test runner wrote") from None
    return reading.results()


class _Reading:
    """Counts what goes by."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self._root: str | None = None
        self._name = ""
        self._at_s: float | None = None
        self._tests = self._failed = self._skipped = self._failed_in_sum = 0
        self._bad = self._left = False
        self._in_case = False

    def results(self) -> Results:
        failed = max(self._failed, self._failed_in_sum)
        return Results(self._name, self._tests, failed, self._skipped, self._at_s)

    def _refuse(self, name: str, *rest: object) -> None:
        raise ConfigError(f"the report declares a document type or an entity, {name!r}; JUnit reports have none")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition("}")[2].rpartition(":")[2]
        if self._root is None:
            self._root = name
            if name not in _ROOTS:
                raise ConfigError(
                    f"the report begins with <{name[:40]}>; a JUnit report with <testsuites> or <testsuite>"
                )
        if name in _ROOTS:
            self._name = self._name or attributes.get("name", "")
            sums = [attributes.get(each, "") for each in ("failures", "errors")]
            failed = sum(int(each[:9]) for each in sums if each.isascii() and each.isdigit())
            self._failed_in_sum = max(self._failed_in_sum, failed)
            at_s = _moment(attributes.get("timestamp"))
            self._at_s = at_s if self._at_s is None else max(self._at_s, at_s or 0.0)
        elif name == "testcase":
            self._in_case, self._bad, self._left = True, False, False
        elif name in ("failure", "error"):
            if self._in_case:
                self._bad = True
            else:  # of the suite itself: its set-up, say
                self._tests += 1
                self._failed += 1
        elif name == "skipped":
            self._left = True

    def _end(self, name: str) -> None:
        if name.rpartition("}")[2].rpartition(":")[2] == "testcase":
            self._in_case = False
            self._tests += 1
            self._failed += self._bad
            self._skipped += self._left and not self._bad


def _moment(text: str | None) -> float | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
