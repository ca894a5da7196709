"""The face of a meter: what it takes, what it tells, and what it leaves alone."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import tokenmeter
from tests.clients.faces import ASK, COST_NANOS, FACES, INPUT, MODEL, OUTPUT, URL, Face, Origin, face_id
from tokenmeter import (
    Budget,
    BudgetExceeded,
    ConfigError,
    DepthExceeded,
    LoopDetected,
    LoopPolicy,
    Meter,
    Price,
    Spend,
    StoreUnavailable,
)
from tokenmeter import meter as meter_module
from tokenmeter.budgets import Grant, MemoryStore, open_store
from tokenmeter.ledger import open_ledger
from tokenmeter.testing import CapturedCalls, FakeClock

COST = Decimal(COST_NANOS) / 10**9
MESSAGES = "https://api.anthropic.com/v1/messages"
RESPONSES = "https://api.openai.com/v1/responses"
sync = FACES[2]


def posted(meter: Meter, **fields: Any) -> None:
    meter.wrap(Origin(sync).client()).post(URL, json=ASK | fields)


# -- life --------------------------------------------------------------------------------------------------------


def test_a_context_manager() -> None:
    with Meter() as meter:
        assert isinstance(meter, Meter)
        client = Origin(sync).client()
        assert meter.wrap(client) is client
        meter.instrument()
        posted(meter)
    assert "send" not in vars(client)
    for face in FACES:
        assert type(vars(face.kind)["send"]).__name__ == "function"
    assert meter.spend().calls == 1  # what was metered stays readable


def test_an_error_passes_through_the_context_manager() -> None:
    class Mine(Exception):
        pass

    meter = Meter()
    meter.instrument()
    with pytest.raises(Mine), meter:
        raise Mine
    assert type(vars(sync.kind)["send"]).__name__ == "function"


def test_closing_is_idempotent() -> None:
    meter = Meter()
    meter.instrument()
    posted(meter)
    for _ in range(3):
        meter.close()
        meter.uninstrument()
        meter.flush()
    assert meter.spend().calls == 1


def test_a_closed_meter_leaves_calls_alone(calls: CapturedCalls) -> None:
    with Meter(recorders=[calls]) as meter:
        client = meter.wrap(Origin(sync).client())
    assert client.post(URL, json=ASK).status_code == 200
    assert len(calls) == 0


def test_meters_are_independent() -> None:
    with Meter([Budget("1 calls", wait_s=0)]) as one, Meter() as other:
        posted(one)
        posted(other)
        posted(other)
        assert (one.spend().calls, other.spend().calls) == (1, 2)
        with pytest.raises(BudgetExceeded):
            posted(one)


def test_made_by_many_threads_at_once() -> None:
    with Meter() as meter:
        client = Origin(sync).client()
        threads = [threading.Thread(target=lambda: meter.wrap(client).post(URL, json=ASK)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert meter.spend().calls == 8


@pytest.mark.parametrize("face", FACES, ids=face_id)
def test_wrap_returns_the_same_object(face: Face) -> None:
    client = face.client(Origin(face))
    kind = type(client)
    with Meter() as meter:
        assert meter.wrap(client) is client
        assert meter.wrap(client) is client
        assert type(client) is kind


# -- what was spent ----------------------------------------------------------------------------------------------


def test_spend() -> None:
    with Meter() as meter:
        assert meter.spend() == Spend()
        with meter.agent("triage", user="alice", team="support", run="run-1", ticket="42"):
            posted(meter)
        with meter.agent("triage", user="bob"):
            posted(meter)
            posted(meter)
        with meter.agent("writer"):
            posted(meter, model="gpt-4o")
        posted(meter)

        triage = meter.spend(agent="triage")
        assert (triage.calls, triage.input_tokens, triage.output_tokens) == (3, 3 * INPUT, 3 * OUTPUT)
        assert triage.usd == 3 * COST
        assert isinstance(triage.usd, Decimal)
        assert meter.spend(user="alice").calls == 1
        assert meter.spend(user=None).calls == 2
        assert meter.spend(team="support", agent="triage").calls == 1
        assert meter.spend(team="support", agent="writer") == Spend()
        assert meter.spend(run="run-1").calls == 1
        assert meter.spend(tags={"ticket": "42"}).calls == 1
        assert meter.spend(tags={"ticket": "43"}).calls == 0
        assert meter.spend(agent=None).calls == 1
        assert meter.spend(model=MODEL).calls == 4
        assert meter.spend(model="gpt-4o").usd > 0
        assert meter.spend(provider="openai").calls == 5
        assert meter.spend(provider="anthropic").calls == 0
        assert meter.unattributed() == meter.spend(agent=None, user=None, team=None)
        assert (meter.unattributed().calls, meter.unattributed().usd) == (1, COST)
        parts = [meter.spend(agent=agent).usd for agent in ("triage", "writer", None)]
        assert sum(parts) == meter.spend().usd


def test_spend_tells_refusals_and_failures_apart() -> None:
    with Meter([Budget("1 calls", wait_s=0)]) as meter:
        posted(meter)
        with pytest.raises(BudgetExceeded):
            posted(meter)
        meter.wrap(Origin(sync).client())
        spend = meter.spend()
        assert (spend.calls, spend.refused, spend.failed) == (1, 1, 0)
    with Meter() as meter:
        meter.wrap(Origin(sync, status=500).client()).post(URL, json=ASK)
        spend = meter.spend()
        assert (spend.calls, spend.refused, spend.failed) == (0, 0, 1)
        assert spend.usd == 0


def test_remaining(clock: FakeClock) -> None:
    budgets = [
        Budget("$1", per="day", scope="agent", name="money"),
        Budget("3 calls", name="few"),
        Budget("1M tokens", scope="user", match={"model": "gpt-*"}, name="tokens"),
    ]
    with Meter(budgets, clock=clock) as meter:
        with meter.agent("triage", user="alice"):
            posted(meter, max_tokens=50)
        left = {found.budget: found for found in meter.remaining(agent="triage", user="alice", model=MODEL)}
        assert left.keys() == {"money", "few", "tokens"}
        money = left["money"]
        assert (money.scope, money.unit, money.limit, money.spent) == ("agent=triage", "usd", Decimal(1), COST)
        assert (money.held, money.left) == (0, 1 - COST)
        assert money.resets_at is not None
        assert 0 < money.resets_at - clock.now_s() <= 86_400
        assert (left["few"].limit, left["few"].spent, left["few"].left, left["few"].resets_at) == (3, 1, 2, None)
        assert left["tokens"].spent == INPUT + OUTPUT

        assert meter.remaining(agent="another")[0].spent == 0
        assert {found.budget for found in meter.remaining(agent="triage", model="claude")} == {"money", "few"}
        clock.advance(86_400)
        [fresh] = [found for found in meter.remaining(agent="triage") if found.budget == "money"]
        assert (fresh.spent, fresh.left) == (0, 1)
    assert Meter().remaining() == ()


def test_a_refusal_tells_the_limit_with_the_grants(tmp_path: Path) -> None:
    for store in (MemoryStore(), open_store(f"sqlite:///{tmp_path}/books.db")):
        with Meter([Budget("1 calls", name="few")], store=store) as meter:
            now_s = time.time()
            store.grant(Grant("more", "calls few|", 2, now_s - 1, now_s + 60, "a migration", "al"))
            for _ in range(3):
                posted(meter)
            with pytest.raises(BudgetExceeded, match="limit 3 calls, spent 3 calls") as caught:
                posted(meter)
            assert (caught.value.limit, meter.remaining()[0].limit) == (3, 3)


def test_a_refusal_tells_that_its_limit_is_that_of_an_outage(tmp_path: Path) -> None:
    books = tmp_path / "books.db"
    budget = Budget("100 calls", name="many", on_store_error="local", local_limit="2 calls")
    with Meter([budget], store=f"sqlite:///{books}") as meter:
        posted(meter)
        books.rename(tmp_path / "away.db")
        time.sleep(1.1)  # it looks once a second
        for _ in range(2):
            posted(meter)
        with pytest.raises(BudgetExceeded, match="limit while its store is gone 2 calls, spent 2 calls"):
            posted(meter)
        (tmp_path / "away.db").rename(books)


def test_remaining_shows_what_is_held() -> None:
    with Meter([Budget("3 calls", name="few")]) as meter:
        client = meter.wrap(Origin(sync).client())
        response = client.send(client.build_request("POST", URL, json=ASK | {"stream": True}), stream=True)
        [few] = meter.remaining()
        assert (few.spent, few.held, few.left) == (0, 1, 2)
        response.close()
        [few] = meter.remaining()
        assert (few.spent, few.held, few.left) == (1, 0, 2)


def test_depth_is_limited_by_default() -> None:
    with Meter() as meter:

        def nested(depth: int) -> None:
            if depth == 0:
                posted(meter)
                return
            with meter.agent(f"agent-{depth}"):
                nested(depth - 1)

        nested(10)
        with pytest.raises(DepthExceeded, match="agent-11 → agent-10"):
            nested(11)
    with Meter(loops=LoopPolicy(max_depth=2)) as meter:
        nested(2)
        with pytest.raises(DepthExceeded):
            nested(3)


# -- who, when no scope says it ----------------------------------------------------------------------------------

Who = tuple[str | None, str | None, str | None, str | None]


@pytest.mark.parametrize(
    ("fields", "who"),
    [
        ({"user": "alice"}, (None, "alice", None, None)),
        ({"safety_identifier": "hash-1"}, (None, "hash-1", None, None)),
        ({"metadata": {"user": "alice"}}, (None, "alice", None, None)),
        ({"metadata": {"user_id": "alice"}}, (None, "alice", None, None)),
        (
            {"metadata": {"agent": "triage", "user": "alice", "team": "support", "run": "run-1"}},
            ("triage", "alice", "support", "run-1"),
        ),
        ({"metadata": {"agent_name": "triage", "run_id": "run-1"}}, ("triage", None, None, "run-1")),
        ({"user": "alice", "metadata": {"user": "bob", "team": "support"}}, (None, "alice", "support", None)),
        ({"metadata": {"other": "thing"}}, (None, None, None, None)),
        ({"metadata": "not a mapping", "user": 3}, (None, None, None, None)),
        ({"metadata": None, "user": None}, (None, None, None, None)),
        ({"user": "", "metadata": {"agent": "", "team": 3}}, (None, None, None, None)),
    ],
)
def test_the_requests_own_fields(calls: CapturedCalls, fields: dict[str, Any], who: Who) -> None:
    with Meter(recorders=[calls]) as meter:
        posted(meter, **fields)
        posted(meter, **fields, stream=True)
        assert meter.unattributed().calls == (2 if who[:3] == (None, None, None) else 0)
    assert [(row.agent, row.user, row.team, row.run) for row in calls] == [who, who]


@pytest.mark.parametrize(
    ("url", "body", "user"),
    [
        (MESSAGES, {"model": "m", "max_tokens": 5, "messages": [], "metadata": {"user_id": "alice"}}, "alice"),
        (MESSAGES, {"model": "m", "max_tokens": 5, "messages": []}, None),
        (RESPONSES, {"model": "m", "input": "x", "user": "alice"}, "alice"),
        (RESPONSES, {"model": "m", "input": "x", "safety_identifier": "alice"}, "alice"),
        (RESPONSES, {"model": "m", "input": "x", "metadata": {"user": "alice"}}, "alice"),
        ("https://api.openai.com/v1/embeddings", {"model": "m", "input": "x", "user": "alice"}, "alice"),
    ],
)
def test_other_protocols(calls: CapturedCalls, url: str, body: dict[str, Any], user: str | None) -> None:
    with Meter(recorders=[calls]) as meter:
        meter.wrap(sync.client(lambda request: sync.response(200, [b"{}"], {}))).post(url, json=body)
    assert [row.user for row in calls] == [user]


def test_the_scope_wins(calls: CapturedCalls) -> None:
    fields = {"user": "theirs", "metadata": {"agent": "theirs", "team": "theirs", "run": "theirs"}}
    with Meter(recorders=[calls]) as meter:
        with meter.agent("mine", user="mine", team="mine", run="mine"):
            posted(meter, **fields)
        with meter.agent("mine"):  # what the scope doesn't say is taken from the request
            posted(meter, **fields)
    first, second = calls
    assert (first.agent, first.user, first.team, first.run) == ("mine",) * 4
    assert (second.agent, second.user, second.team) == ("mine", "theirs", "theirs")
    assert second.run not in ("mine", "theirs", None)
    assert second.path == ("mine",)


def test_budgets_see_the_requests_own_fields() -> None:
    with Meter([Budget("1 calls", scope="user", wait_s=0)]) as meter:
        posted(meter, user="alice")
        posted(meter, user="bob")
        with pytest.raises(BudgetExceeded, match="user=alice"):
            posted(meter, user="alice")


def test_long_names_are_no_danger(calls: CapturedCalls) -> None:
    with Meter(recorders=[calls]) as meter:
        posted(meter, user="x" * 100_000)
        assert meter.spend().calls == 1
    assert len(calls[0].user or "") <= 1_024


# -- what makes no sense -----------------------------------------------------------------------------------------

NONSENSE: dict[str, tuple[Callable[[], object], str]] = {
    "a budget alone": (lambda: Meter(Budget("$5")), "budgets is a single Budget; give a list"),  # type: ignore[arg-type]
    "text for budgets": (lambda: Meter("$5"), "budgets is '\\$5'; give a list"),  # type: ignore[arg-type]
    "text for labels": (lambda: Meter(metric_labels="team"), "metric labels are 'team'; give a list"),
    "a budget as text": (lambda: Meter(["$5"]), "'\\$5' is no budget"),  # type: ignore[list-item]
    "a limit": (lambda: Meter([Budget("five dollars")]), "five dollars"),
    "a negative limit": (lambda: Meter([Budget("$-5")]), "-5"),
    "a window": (lambda: Meter([Budget("$5", per="fortnight")]), "fortnight"),  # type: ignore[arg-type]
    "a scope": (lambda: Meter([Budget("$5", scope="agnet")]), "agnet"),
    "a store": (lambda: Meter(store="mysql://here"), "mysql"),
    "a policy for unknown prices": (lambda: Meter(unpriced="ignore"), "ignore"),  # type: ignore[arg-type]
    "a negative price": (lambda: Meter(prices={"m": Price("-1", "2")}), "-1"),
    "a price of no kind": (lambda: Meter(prices={"m": {"inptu": "1"}}), "inptu"),
    "a price file that isn't there": (lambda: Meter(prices="/nowhere/prices.toml"), "/nowhere/prices.toml"),
    "a depth": (lambda: Meter(loops=LoopPolicy(max_depth=0)), "max_depth"),
    "a label": (lambda: Meter(metric_labels=["modle"]), "modle"),
    "an agent without a name": (lambda: Meter().agent(""), "agent name"),
    "a user that is no text": (lambda: Meter().agent("a", user=3), "user is 3"),  # type: ignore[arg-type]
    "a tag that is no text": (lambda: Meter().agent("a", ticket=42), "ticket"),  # type: ignore[arg-type]
    "too many tags": (lambda: Meter().agent("a", **{f"t{n}": "x" for n in range(33)}), "33 tags"),
    "a name that is too long": (lambda: Meter().agent("a" * 257), "257"),
    "too few label values": (lambda: Meter(max_label_values=-1), "max_label_values"),
    "a key that is no bytes": (lambda: Meter(user_key="secret"), "user_key"),  # type: ignore[arg-type]
    "loops of no kind": (lambda: Meter(loops=3), "loops"),  # type: ignore[arg-type]
    "a recorder of no kind": (lambda: Meter(recorders=[3]), "recorder"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_named(what: str) -> None:
    make, named = NONSENSE[what]
    with pytest.raises(ConfigError, match=named) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, tokenmeter.TokenmeterError)


# -- recorders ---------------------------------------------------------------------------------------------------


def test_recorders_get_each_row_after_it_was_settled(calls: CapturedCalls) -> None:
    seen: list[Decimal] = []

    class Asking:
        def record(self, row: tokenmeter.CallRecord) -> None:
            seen.append(meter.spend().usd)
            assert meter.remaining()[0].held == 0

    with Meter([Budget("10 calls")], recorders=[Asking(), calls]) as meter:
        posted(meter)
    assert seen == [COST]
    [row] = calls
    assert (row.provider, row.operation, row.host, row.port, row.http_status) == (
        "openai",
        "chat",
        "api.openai.com",
        443,
        200,
    )
    assert row.duration_s > 0
    with pytest.raises(AttributeError):
        row.user = "someone else"  # type: ignore[misc]


# -- what came of it ---------------------------------------------------------------------------------------------


def test_outcomes_that_nobody_can_read_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tokenmeter"), Meter() as meter:
        meter.outcome("deployment", "one")
        meter.outcome("deployment", "two")
        meter.revoke("deployment", "one")
    [told] = [record.getMessage() for record in caplog.records if "no ledger" in record.getMessage()]
    assert "Meter(ledger='sqlite:///FILE')" in told


def test_outcomes_that_go_to_a_ledger_are_not(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    with Meter(ledger=f"sqlite:///{tmp_path / 'ledger.db'}") as meter:
        meter.outcome("deployment", "one")
    assert not [record for record in caplog.records if record.name.startswith("tokenmeter")]


@pytest.mark.parametrize(
    ("kind", "key", "why", "says"),
    [
        ("Not A Kind", "k", "", "'Not A Kind' is no name; write lower-case"),
        (1, "k", "", "kind 1 is no name"),
        ("task", "", "", "key is ''; give a string"),
        ("task", 7, "", "key is 7"),
        ("task", "k", None, "why is None; give a text"),
    ],
)
def test_a_revocation_is_checked_like_an_outcome(kind: Any, key: Any, why: Any, says: str) -> None:
    with Meter() as meter, pytest.raises(ConfigError, match=says):
        meter.revoke(kind, key, why)


@pytest.mark.parametrize("agents", ["coder", 3, [""], [None]])
def test_agents_of_an_outcome_are_names(agents: Any) -> None:
    with Meter() as meter, pytest.raises(ConfigError, match="agent"):
        meter.outcome("task", "k", agents=agents)


def test_a_meter_opens_its_ledger_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sqlalchemy")
    opened = []

    def slowly(url: str) -> Any:
        opened.append(url)
        time.sleep(0.05)
        return open_ledger(url)

    monkeypatch.setattr(meter_module, "open_ledger", slowly)
    with Meter(ledger=f"sqlite:///{tmp_path / 'ledger.db'}") as meter:
        threads = [threading.Thread(target=meter.outcome, args=("task", f"k{nth}")) for nth in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(opened) == 1
    with pytest.raises(StoreUnavailable, match="closed"):
        meter.outcome("task", "late")
    with pytest.raises(StoreUnavailable, match="closed"):
        meter.revoke("task", "k1")
    assert len(opened) == 1
    with open_ledger(opened[0]) as ledger:
        assert len(list(ledger.outcomes())) == 4


# -- what it is given --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"budgets": [Budget("$1", name="a"), Budget("$2", name="a")]},
        {"prices": {"m": "cheap"}},
        {"prices": "nowhere.toml"},
        {"metric_labels": ["agents"]},
        {"max_label_values": -1},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_a_meter_that_is_refused_opens_no_store(tmp_path: Path, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Meter(store=f"sqlite:///{tmp_path / 'books.db'}", **bad)
    assert not list(tmp_path.iterdir())


def test_a_store_that_lacks_something_is_told_what() -> None:
    class Half(MemoryStore):
        grants: Any = None
        time_s: Any = None

    with pytest.raises(ConfigError, match=r"it has no grants\(\), time_s\(\); give"):
        Meter(store=Half())
    with pytest.raises(ConfigError, match=r"hold\(\), .*instant, keeps_rows"):
        Meter(store=object())  # type: ignore[arg-type]
    Meter(store=MemoryStore()).close()


# -- what an import costs ----------------------------------------------------------------------------------------

HEAVY = [
    "openai",
    "anthropic",
    "httpx",
    "httpx2",
    "genai_prices",
    "opentelemetry.sdk",
    "opentelemetry.util.genai",
    "brotli",
    "brotlicffi",
    "zstandard",
    "rich",
    "bpe_openai",
    "jinja2",
    "redis",
    "sqlalchemy",
    "sqlite3",
    "pydantic",
]


@pytest.mark.parametrize("code", ["import tokenmeter", "import tokenmeter; tokenmeter.Meter().close()"])
def test_heavy_libraries_are_imported_on_first_use(code: str) -> None:
    told = (
        f"import json, sys; before = set(sys.modules); {code}; print(json.dumps(sorted(sys.modules.keys() - before)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", told], capture_output=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert "tokenmeter.meter" in loaded
    assert sorted(loaded & set(HEAVY)) == []


def test_nothing_is_started_by_an_import() -> None:
    code = "import threading, tokenmeter; tokenmeter.Meter(); assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-W", "error", "-c", code], timeout=60, check=True)


def test_nothing_is_logged_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="tokenmeter"), Meter([Budget("$5")]) as meter:
        meter.instrument()
        posted(meter)
        posted(meter, stream=True)
    assert [record for record in caplog.records if record.name.startswith("tokenmeter")] == []


def test_a_run_that_came_to_its_limit_is_refused_with_since_when() -> None:
    clock = FakeClock()
    with Meter(loops=LoopPolicy(max_calls_per_run=3, max_repeats=None), clock=clock) as meter:
        client = meter.wrap(Origin(sync).client())
        with meter.agent("desk"):
            began_s = clock.now_s()
            for _ in range(3):
                client.post(URL, json=ASK)
                clock.advance(10)
            with pytest.raises(LoopDetected, match="its run made 3 calls in 30 s") as caught:
                client.post(URL, json=ASK)
    assert caught.value.since_s == began_s
