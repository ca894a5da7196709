"""``tokenmeter grant`` raises the very account that calls are charged to, for a while, and says why."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.shared_books import BUDGETS, SharedBooks, command
from tokenmeter.budgets import Budget, Grant, Held, Need, Policy, Short, account_of
from tokenmeter.cli import accounts, main, times
from tokenmeter.cli.trouble import Trouble
from tokenmeter.errors import StoreUnavailable

USD = 10**9
TOKENS = "200k tokens per month per team and model for model=gpt-[45]*|claude-*"


def grant(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["grant", "--json", *arguments]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    found: dict[str, Any] = json.loads(out.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    assert main(["grant", *arguments]) == status
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    return out.err


def test_a_grant_lets_the_next_call_pass(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("triage", Need(5 * USD, 0))
    [claim] = [c for c in shared.claims({"agent": "triage"}, Need(USD, 0)) if c.budget.name == "daily"]
    assert isinstance(shared.store.hold("no", [claim], shared.store.time_s()), Short)

    given_ = grant(
        capsys, "$2", "--budget", "daily", "--scope", "agent=triage", "--for", "24h", "--reason", "why", "--by", "al"
    )

    assert isinstance(shared.store.hold("yes", [claim], shared.store.time_s()), Held)
    [kept] = shared.store.grants()
    assert kept.account == account_of(claim.key)
    assert (kept.amount, kept.reason, kept.by) == (2 * USD, "why", "al")
    assert kept.expires_at_s - kept.at_s == 86_400
    assert given_["amount"] == "2"
    assert (given_["budget"], given_["scope"], given_["state"]) == ("daily", "agent=triage", "in force")


CASES: list[tuple[str, tuple[str, ...], str, dict[str, str]]] = [
    ("daily", ("agent=never-seen",), "$1", {"agent": "never-seen"}),
    ("daily", ("agent=a=b,c|d%",), "$1", {"agent": "a=b,c|d%"}),
    (TOKENS, ("model=gpt-4o", "team=t"), "5 tokens", {"team": "t", "model": "gpt-4o"}),
    (TOKENS, ("team=t,model=claude-x",), "5k tokens", {"team": "t", "model": "claude-x"}),
    ("calls", (), "7 calls", {}),
    ("calls", ("global",), "7 calls", {}),
    ("run", ("run=r-1",), "1 call", {"run": "r-1"}),
]


@pytest.mark.parametrize(("budget", "scope", "amount", "facts"), CASES)
def test_a_book_that_was_never_charged_can_be_granted_in_advance(
    budget: str,
    scope: tuple[str, ...],
    amount: str,
    facts: dict[str, str],
    shared: SharedBooks,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared.configure()
    options = [part for each in scope for part in ("--scope", each)]

    found = grant(capsys, *amount.split(), "--budget", budget, *options, "--for", "1h", "--reason", "x")

    assert found["account"] == shared.account(budget, **facts)
    assert [each.account for each in shared.store.grants()] == [found["account"]]


def test_calls_without_the_attribute_have_an_account_too(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure()
    found = grant(capsys, "$1", "--budget", "daily", "--scope", "agent=(none)", "--for", "1h", "--reason", "x")
    assert found["account"] == shared.account("daily")


def test_without_a_configuration_the_books_tell(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.call("triage", Need(USD, 10), team="t", model="gpt-4o")
    store = ("--store", shared.url, "--for", "1h", "--reason", "x")

    found = grant(capsys, "5 tokens", "--budget", TOKENS, "--scope", "model=gpt-4o,team=t", *store)

    assert found["account"] == shared.account(TOKENS, team="t", model="gpt-4o")
    said = refused(capsys, "$5", "--budget", "daily", "--scope", "agent=trige", *store)
    assert "did you mean 'agent=triage'?" in said
    said = refused(capsys, "$5", "--budget", "dayli", "--scope", "agent=triage", *store)
    assert "did you mean 'daily'?" in said


ENDED = ("--budget", "daily", "--scope", "agent=a", "--reason", "x")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("$5", *ENDED, "--for", "24"), ("'24' says no unit", "24h")),
        (("$5", *ENDED, "--for", "0h"), ("'0h'",)),
        (("$5", *ENDED, "--for", "9999d"), ("ten years",)),
        (("$5", *ENDED, "--until", "2020-01-01"), ("'2020-01-01' is past",)),
        (("$5", *ENDED, "--until", "9000-01-01"), ("ten years",)),
        (("$5", *ENDED, "--until", "tomorrow"), ("'tomorrow' is no ISO 8601 time", "2026-12-01T09:00Z")),
        (("$5", *ENDED), ("--for or --until",)),
        (("$0", *ENDED, "--for", "1h"), ("'$0' grants nothing", "more than zero")),
        (("5", *ENDED, "--for", "1h"), ("amount '5' says no unit", '"$5"')),
        (("-5", *ENDED, "--for", "1h"), ("amount '-5'", "never negative")),
        ((*ENDED, "--for", "1h"), ("AMOUNT",)),
        (("5", "apples", *ENDED, "--for", "1h"), ("'5 apples'",)),
        (("100", "calls", *ENDED, "--for", "1h"), ("'100 calls' is in calls", "'daily' is in US dollars", "'$5'")),
        (("$9,223,372,036", *ENDED, "--for", "1h"), ("larger than can be kept",)),
        (("$5", "--budget", "dialy", "--scope", "agent=a", "--reason", "x", "--for", "1h"), ("did you mean 'daily'",)),
        (("$5", "--budget", "zzz", "--reason", "x", "--for", "1h"), ("'calls'", "'daily'")),
        (("$5", "--budget", "daily", "--reason", "x", "--for", "1h"), ("per agent", "'agent=NAME'")),
        (("$5", "--budget", "daily", "--scope", "team=a", "--reason", "x", "--for", "1h"), ("give 'agent=NAME'",)),
        (("$5", "--budget", "daily", "--scope", "agnt=a", "--reason", "x", "--for", "1h"), ("did you mean 'agent'",)),
        (("$5", "--budget", "daily", "--scope", "triage", "--reason", "x", "--for", "1h"), ("write agent=NAME",)),
        (("$5", *ENDED, "--scope", "agent=b", "--for", "1h"), ("'agent' twice",)),
        (("1 call", "--budget", "calls", "--scope", "agent=a", "--reason", "x", "--for", "1h"), ("give 'global'",)),
        (("$5", "--budget", "one call", "--reason", "x", "--for", "1h"), ("per call", "change its limit")),
        (
            ("1 token", "--budget", TOKENS, "--scope", "team=t,model=o3", "--reason", "x", "--for", "1h"),
            ("counts only calls with model=gpt-[45]*|claude-*",),
        ),
        (("$5", "--budget", "daily", "--scope", "agent=a", "--for", "1h"), ("--reason",)),
        (("$5", "--budget", "daily", "--scope", "agent=a", "--for", "1h", "--reason", "  "), ("--reason",)),
        (("$5", "--budget", "daily", "--scope", "agent=a", "--for", "1h", "--reason", "x" * 501), ("at most 500",)),
        (("$5", *ENDED, "--for", "1h", "--by", " "), ("--by",)),
        (("$5", "--list"), ("--list",)),
    ],
    ids=lambda value: " ".join(value)[:70] if isinstance(value, tuple) else "",
)
def test_what_is_refused_names_the_value_and_the_remedy(
    arguments: tuple[str, ...], parts: tuple[str, ...], shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure()
    said = refused(capsys, *arguments)
    for part in parts:
        assert part in said
    assert shared.store.grants() == []


def test_for_and_until_exclude_each_other() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["grant", "$5", "--for", "1h", "--until", "2030-01-01"])
    assert ended.value.code == 2


def test_the_user_of_the_system_grants_it(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.configure()
    monkeypatch.setattr("tokenmeter.cli.people.getpass.getuser", lambda: "carol")
    assert grant(capsys, "$5", *ENDED, "--for", "1h")["by"] == "carol"

    def nobody() -> str:
        raise KeyError("uid not found: 999")

    monkeypatch.setattr("tokenmeter.cli.people.getpass.getuser", nobody)
    assert "give one with --by" in refused(capsys, "$5", *ENDED, "--for", "1h")


def test_until(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    soon = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    there = soon.astimezone(timezone(timedelta(hours=5)))
    assert grant(capsys, "$5", *ENDED, "--until", there.isoformat())["expires_at"] == soon.timestamp()


def test_text_for_people(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.configure()
    shared.call("triage", Need(USD, 0))

    assert main(["grant", "$2", "--budget", "daily", "--scope", "agent=triage", "--for", "24h", "--reason", "why"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Granted $2 to 'daily' agent=triage until 20")
    assert "Its limit is $7 now; $1.0000 is spent, $6.0000 is left." in out

    assert main(["grant", "$2", "--budget", "daily", "--scope", "agent=trige", "--for", "24h", "--reason", "why"]) == 0
    assert "No call was charged to agent=trige" in (out := capsys.readouterr().out)
    assert "did you mean 'agent=triage'?" in out


def test_the_book_of_a_period_that_was_changed_is_not_told(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str]
) -> None:
    shared.configure('[[budgets]]\nname = "b"\nlimit = "$5"\nper = "week"\n')
    now_s = shared.store.time_s()
    for per, usd in (("day", 4), ("week", 1)):
        claims = Policy([Budget("$5", per=per, name="b")]).claims({}, Need(usd * USD, 0), now_s)  # type: ignore[arg-type]
        assert isinstance(shared.store.hold(per, claims, now_s), Held)
        shared.store.settle(per, [usd * USD])
    assert main(["grant", "$2", "--budget", "b", "--for", "1h", "--reason", "why"]) == 0
    assert "Its limit is $7 now; $1.0000 is spent, $6.0000 is left." in capsys.readouterr().out


def test_the_list_has_those_that_ended_too(shared: SharedBooks, capsys: pytest.CaptureFixture[str]) -> None:
    shared.call("triage", Need(USD, 0))
    now_s = shared.store.time_s()
    known, unknown = shared.account("daily", agent="triage"), shared.account(TOKENS, team="a|b", model="gpt-4")
    shared.store.grant(Grant("1", known, USD, now_s - 90, now_s - 30, "first", "alice"))
    shared.store.grant(Grant("2", known, 2 * USD, now_s - 60, now_s + 900, "second", "bob"))
    shared.store.grant(Grant("3", unknown, 5000, now_s + 600, now_s + 900, "third", "carol"))

    found = grant(capsys, "--list", "--store", shared.url)["grants"]

    assert [(each["id"], each["state"]) for each in found] == [("3", "to come"), ("2", "in force"), ("1", "ended")]
    assert [each["scope"] for each in found] == ["team=a|b,model=gpt-4", "agent=triage", "agent=triage"]
    assert [(each["unit"], each["amount"]) for each in found[:2]] == [("tokens", 5000), ("usd", "2")]
    assert main(["grant", "--list", "--store", shared.url]) == 0
    out = capsys.readouterr().out
    for part in ("5k tokens", "in force", "ended", "to come", "second", "bob", "3 grants in"):
        assert part in out


def test_a_grant_that_got_lost_on_the_way_is_given_once(
    shared: SharedBooks, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.configure()
    kind = type(shared.store)
    give = kind.grant
    failures = [1]

    def lossy(self: Any, grant: Grant) -> None:
        give(self, grant)
        if failures.pop() if failures else False:
            raise StoreUnavailable("the answer got lost")

    monkeypatch.setattr(kind, "grant", lossy)
    assert grant(capsys, "$5", *ENDED, "--for", "1h")["amount"] == "5"
    assert len(shared.store.grants()) == 1

    failures[:] = [1, 1]
    assert "look with --list" in refused(capsys, "$5", *ENDED, "--for", "1h", status=1)


def test_the_real_command(shared: SharedBooks) -> None:
    shared.configure()

    ran = command("grant", "$5", *ENDED, "--for", "1h")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert [each.account for each in shared.store.grants()] == [shared.account("daily", agent="a")]
    ran = command("grant", "$5", "--budget", "dialy", "--reason", "x", "--for", "1h")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "did you mean 'daily'?" in ran.stderr
    assert "Traceback" not in ran.stderr


# -- laws --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from("wdhms")), max_size=5), st.booleans())
def test_a_duration_is_the_sum_of_its_parts_or_refused(parts: list[tuple[int, str]], spaced: bool) -> None:
    units = [unit for _, unit in parts]
    text = (" " if spaced else "").join(f"{count}{unit}" for count, unit in parts)
    size_s = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
    total_s = sum(count * size_s[unit] for count, unit in parts)
    in_order = units == sorted(set(units), key="wdhms".index)
    if in_order and 0 < total_s <= times.MAX_DURATION_S:
        assert times.parse_duration(text) == total_s
    else:
        with pytest.raises(Trouble):
            times.parse_duration(text)


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_trouble(text: str) -> None:
    for parse in (times.parse_duration, times.parse_moment):
        said = repr(text)
        try:
            parse(text)
        except Trouble as trouble:
            said = str(trouble)
        assert repr(text) in said


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])))
def test_a_moment_is_read_as_it_is_written(moment: datetime) -> None:
    assert times.parse_moment(moment.isoformat()) == moment.timestamp()


@given(st.integers(0, 400_000_000))
def test_times_in_words_are_short_by_less_than_their_smaller_unit(seconds: int) -> None:
    size_s = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
    words = times.in_words(seconds).split()
    total_s = sum(int(count) * size_s[unit] for count, unit in zip(words[::2], words[1::2], strict=True))
    assert len(words) <= 4
    assert 0 <= seconds - total_s < (3_600 if "d" in words else 60)


@pytest.mark.parametrize(
    ("at_s", "said"),
    [(100.4, "in 1 s"), (100.0, "0 s ago"), (86_500.0, "in 1 d"), (40.0, "1 min ago"), (3_790.1, "in 1 h 1 min")],
)
def test_until_and_ago(at_s: float, said: str) -> None:
    assert times.until(at_s, 100.0) == said


_VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(_VALUES, _VALUES, st.sampled_from(["gpt-4", "claude-3"]))
def test_a_scope_as_the_books_write_it_leads_back_to_the_account(agent: str, team: str, model: str) -> None:
    policy = Policy(BUDGETS)
    facts = {"agent": agent, "team": team, "model": model, "run": "r"}
    for claim in policy.claims(facts, Need(0, 0, 0), 1.8e9):
        if claim.budget.per == "call" or any(f",{name}=" in agent + team for name in ("agent", "team", "model")):
            continue
        pairs = accounts.parse_scope(claim.scope)
        found = accounts.resolve(claim.budget.name, pairs, BUDGETS, (), 1.8e9)
        assert found.key == account_of(claim.key)


_PATTERN = st.lists(
    st.one_of(st.sampled_from(["*", "?", "[ab]", "[!ab]", "[a-c]", "gpt-"]), st.sampled_from(string.ascii_letters)),
    min_size=1,
    max_size=6,
).map("".join)


@given(_PATTERN)
def test_an_example_fits_its_pattern(pattern: str) -> None:
    value = accounts._example([pattern])
    assert value is not None
    assert fnmatchcase(value, pattern)


@given(_PATTERN)
def test_a_budget_with_a_pattern_beside_its_scope_can_be_granted(pattern: str) -> None:
    budget = Budget("$5", scope="agent", match={"model": pattern}, name="b")
    found = accounts.resolve("b", {"agent": "a"}, [budget], (), 0.0)
    assert found.key == "usd b|agent=a"


def test_two_budgets_of_one_name_in_the_store_are_told_apart_by_a_configuration(shared: SharedBooks) -> None:
    one, two = Budget("5 calls", name="same"), Budget("$5", name="same")
    for number, budget in enumerate((one, two)):
        claims = Policy([budget]).claims({}, Need(1, 1, 1), 0.0)
        shared.store.post(f"p{number}", claims, [1])
    books = shared.store.books()
    with pytest.raises(Trouble, match="2 budgets of the store are named 'same'; give --config"):
        accounts.resolve("same", {}, (), books, 0.0)
    assert accounts.resolve("same", {}, [two], books, 0.0).unit == "usd"


def test_the_configuration_of_these_tests_says_what_the_tests_say(shared: SharedBooks) -> None:
    from tokenmeter.config import load_config

    path: Path = shared.configure()
    assert load_config(path).budgets == Policy(BUDGETS).budgets
