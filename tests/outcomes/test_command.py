"""``tokenmeter outcome`` writes to a ledger, says what it did, and says what was wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.ledger.rows import add, call
from tokenmeter.cli import main
from tokenmeter.ledger import open_ledger
from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes import Sink

ROOT = Path(__file__).resolve().parents[2]


class Books:
    """A ledger and the command on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self._capsys = capsys

    def run(self, *words: str) -> tuple[int, str, str]:
        status = main(["outcome", *words, "--ledger", self.url])
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def outcomes(self) -> dict[str, Outcome]:
        with open_ledger(self.url) as ledger:
            return {f"{each.kind} {each.key}": each for each in ledger.outcomes()}


@pytest.fixture
def books(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Books:
    return Books(tmp_path, capsys)


def test_the_ledger_is_a_sink(tmp_path: Path) -> None:
    with open_ledger(f"sqlite:///{tmp_path / 'l.db'}") as ledger:
        sink: Sink = ledger
        assert sink is ledger


def test_put_and_revoke(books: Books) -> None:
    put = ("put", "deployment", "api#412", "--run", "r", "--user", "ann", "--agent", "coder", "--accepted-by", "ci")
    status, out, err = books.run(*put, "--at", "2026-11-01T10:00Z", "--weight", "0.5", "--fold", "change-9")
    assert (status, err) == (0, "")
    assert out.startswith("1 new outcomes, 0 linked to runs in sqlite:///")
    assert "0 new outcomes, 1 known before" in books.run(*put)[1]
    assert "1 taken back" in books.run("revoke", "deployment", "api#412", "--reason", "rolled back")[1]

    [found] = books.outcomes().values()
    assert (found.run, found.user, found.agents, found.accepted_by, found.fold) == (
        "r",
        "ann",
        ("coder",),
        "ci",
        "change-9",
    )
    assert (found.at_s, found.weight, found.revoked_why, found.source) == (1_793_527_200.0, 0.5, "rolled back", "api")


def test_a_kind_that_isnt_declared_is_told(books: Books) -> None:
    assert "'synergy' doesn't count until it is declared" in books.run("put", "synergy", "x")[2]


def test_kinds_of_the_configuration(books: Books, tmp_path: Path) -> None:
    path = tmp_path / "kinds.toml"
    path.write_text(
        '[store]\nurl_env = "NOT_SET_IN_CI"\n[outcomes.kinds.synergy]\nweight = 0.125\n'
        "[outcomes.kinds.checks]\nweight = 2",
        encoding="utf-8",
    )
    junit = tmp_path / "report.xml"
    junit.write_text('<testsuite timestamp="2026-11-02T10:00:00Z"><testcase name="a"/></testsuite>', encoding="utf-8")

    assert books.run("put", "synergy", "x", "--config", str(path))[2] == ""
    assert "[outcomes.kinds.other] in tokenmeter.toml" in books.run("put", "other", "x", "--config", str(path))[2]
    assert books.run("import", "junit", str(junit), "--key", "k", "--config", str(path))[0] == 0

    assert {name: each.weight for name, each in books.outcomes().items()} == {
        "synergy x": 0.125,
        "other x": 1.0,
        "checks k": 2.0,
    }


def test_what_is_said_again_moves_no_link(books: Books) -> None:
    """A second claim on an outcome, of another run and time, changes nothing; what came to be known of its own does."""
    with open_ledger(books.url) as ledger:
        add(ledger, call("a", run="mine"), call("b", run="theirs", user="bob"))
    at = "2026-05-29T13:00Z"
    for run, when in (("mine", at), ("theirs", at), ("theirs", "2026-08-29T13:00Z")):
        assert books.run("put", "deployment", "api#1", "--run", run, "--at", when)[0] == 0

    with open_ledger(books.url) as ledger:
        assert [each.run for each in ledger.links()] == ["mine"]


def test_json(books: Books) -> None:
    status, out, _ = books.run("put", "case", "c1", "--json")

    assert status == 0
    told = json.loads(out)
    assert told.pop("ledger").endswith("ledger.db")
    assert told == {"outcomes": 1, "new": 1, "revoked": 0, "linked": 0, "left_out": []}


def test_imports(books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junit = tmp_path / "report.xml"
    junit.write_text('<testsuite timestamp="2026-11-02T10:00:00Z"><testcase name="a"/></testsuite>', encoding="utf-8")
    spans = tmp_path / "spans.jsonl"
    span = {"name": "d", "end_time": 10**18, "attributes": {"deployment.id": "1", "deployment.status": "ok"}}
    spans.write_text(f"{json.dumps(span)}\n{json.dumps({**span, 'name': 'e'})}\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"kind,key,at\ncase,c9,2026-11-01\n")))

    assert books.run("import", "junit", str(junit), "--key", "api@3f")[0] == 0
    assert books.run("import", "csv", "-")[0] == 0
    assert books.run("import", "otel", str(spans))[0] == 0

    assert books.outcomes().keys() == {"checks api@3f", "case c9", "deployment d#1", "deployment e#1"}


def test_this_projects_history_twice(books: Books) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout with a history")
    _, first, _ = books.run("import", "git", str(ROOT), "--json")
    _, second, _ = books.run("import", "git", str(ROOT), "--json")

    assert json.loads(first)["new"] == json.loads(first)["outcomes"] >= 10
    assert json.loads(second)["new"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["put", "Deployment", "x"], "'Deployment' is no name"),
        (["put", "case", "x", "--at", "soon"], "'soon' is no ISO 8601 time"),
        (["put", "case", "x", "--confidence", "3"], "confidence is 3"),
        (["revoke", "case", "x"], "--reason is needed"),
        (["import", "git", "/nowhere"], "'/nowhere' is no folder"),
        (["import", "csv", "/nowhere.csv"], "can't be read"),
        (["import", "junit", __file__, "--key", "k"], "no XML"),
        (["import", "otel", __file__], "no JSON at line 1"),
        (["import", "otel", "deep.json"], "no JSON at line 1"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(
    books: Books, words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deep.json").write_text("[" * 100_000, encoding="utf-8")
    status, out, err = books.run(*words)

    assert status in (1, 2)
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("tokenmeter outcome: ")
