"""One question to all guards: what they let pass, what they stop, and what they say about it."""

from __future__ import annotations

import itertools
import json
import pickle
from typing import Any

import pytest

from tests.loops.dialects import DIALECTS, Say, Step, Told, body
from tokenmeter import DepthExceeded, LoopDetected, LoopPolicy
from tokenmeter.loops.findings import Facts, refused
from tokenmeter.loops.guard import Judged, Memory, judge
from tokenmeter.loops.policy import GUARDS

ASK = Say("user", "Please find me a flight.")
SEARCH = Step("search", {"to": "SEA"}, "[]")
EVERY = pytest.mark.parametrize("dialect", DIALECTS)


STRICT = LoopPolicy(actions={"max_repeats": "refuse"})  # lone questions too


class Desk:
    """Sends requests one after the other, each after the answer to the one before."""

    def __init__(self, policy: LoopPolicy | None = None, **facts: Any) -> None:
        self.policy = policy or STRICT
        self.memory = Memory(b"key")
        self.facts = {"agent": "desk", "run": "r", "path": ("desk",), "protocol": "openai.chat", **facts}
        self.at_s = 1_000.0

    def send(self, body: bytes | None = None, *, failed: bool = False, answer: bool = True, **facts: Any) -> Judged:
        self.at_s += 2
        judged = judge(self.policy, self.memory, Facts(self.at_s, **{**self.facts, "body": body, **facts}))
        if answer and judged.refusal is None:
            self.memory.answered(judged.ticket, failed)
        return judged

    def tell(self, told: Told, dialect: str = "openai chat", **facts: Any) -> Judged:
        protocol, written = body(dialect, told)
        return self.send(written, protocol=protocol, **facts)


def prompt(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


def guards(judged: Judged) -> list[str]:
    return [each.guard for each in judged.findings]


@EVERY
def test_a_loop_within_a_conversation_is_stopped_before_the_fourth(dialect: str) -> None:
    desk = Desk()
    found = [guards(desk.tell([ASK, *[SEARCH] * times], dialect)) for times in range(5)]
    assert found == [[], [], [], ["max_repeats"], ["max_repeats"]]


@EVERY
def test_the_same_request_is_stopped_the_fourth_time(dialect: str) -> None:
    desk = Desk()
    protocol, written = body(dialect, [ASK])
    found = [guards(desk.send(written, protocol=protocol)) for _ in range(5)]
    assert found == [[], [], [], ["max_repeats"], ["max_repeats"]]


def test_a_time_or_a_counter_makes_no_difference() -> None:
    for mark in ("It is 2026-11-28T10:00:0{}Z.", "(attempt {})", "Round {}", "request #{}"):
        desk = Desk()
        found = [guards(desk.send(prompt(f"Any mail? {mark.format(n)}"))) for n in range(4)]
        assert found == [[], [], [], ["max_repeats"]], mark


def test_the_same_long_result_to_a_number_that_goes_on() -> None:
    ack = json.dumps(
        {"status": "accepted", "by": "the clearing house", "note": "will be booked with the next run " * 6}
    )
    desk = Desk(LoopPolicy())
    told: Told = [ASK, *(Step("mark_paid", {"invoice": 4_100 + n}, ack) for n in range(13))]
    found = [desk.tell(told[: 1 + times]).refusal is not None for times in range(14)]
    assert found == [False] * 12 + [True] * 2


def test_examples_before_a_question_make_no_loop_of_a_batch() -> None:
    desk = Desk(LoopPolicy())
    for number in range(20):
        examples = [ASK, Say("assistant", "12 EUR"), Say("user", f"Invoice {number * 37 % 101}: 7{number} euros")]
        assert desk.tell(examples).refusal is None


def results(previous: str, *outputs: str) -> bytes:
    items = [
        {"type": "function_call_output", "call_id": f"call_{previous}{n}", "output": output}
        for n, output in enumerate(outputs)
    ]
    return json.dumps({"model": "m", "previous_response_id": f"resp_{previous}", "input": items}).encode()


@pytest.mark.parametrize("same", [False, True])
def test_what_the_provider_remembers_is_never_refused_for_repeats(same: bool) -> None:
    desk = Desk(LoopPolicy(), protocol="openai.responses")
    words = "aspen birch cedar daisy elder ferns grape hazel iris juniper kelp lotus mango nettle".split()  # noqa: SIM905
    found = [
        desk.send(results(f"{n:03}", *("ok", "ok") if same else (word, word[::-1]))) for n, word in enumerate(words)
    ]
    assert all(each.refusal is None for each in found)
    assert any(each.findings for each in found) is same


def test_a_batch_of_numbers_goes_further() -> None:
    desk = Desk()
    found = [guards(desk.send(prompt(f"Is {n * 37 % 101} a prime?"))) for n in range(14)]
    assert found[:12] == [[]] * 12
    assert found[12] == ["max_repeats"]


def test_meant_work_passes() -> None:
    desk = Desk()
    words = "harbour ticket engine garden letter window mirror copper violin saddle".split()  # noqa: SIM905
    for one, other in itertools.permutations(words, 2):
        assert guards(desk.send(prompt(f"Classify: {one} {other}"))) == []


def test_samples_drawn_side_by_side_pass() -> None:
    desk = Desk()
    tickets = []
    for _ in range(32):
        judged = desk.send(prompt("A joke, please."), answer=False)
        assert judged.findings == ()
        tickets.append(judged.ticket)
    for ticket in tickets:
        desk.memory.answered(ticket)
    assert guards(desk.send(prompt("A joke, please."))) == []


def test_retries_of_what_failed_pass() -> None:
    desk = Desk()
    assert all(desk.send(prompt("hi"), failed=True).findings == () for _ in range(20))


def test_embeddings_of_the_same_text_pass() -> None:
    desk = Desk(operation="embeddings", protocol="openai.embeddings")
    written = json.dumps({"model": "e", "input": "the same"}).encode()
    assert all(desk.send(written).findings == () for _ in range(50))


def test_each_run_of_a_cron_job_is_its_own() -> None:
    desk = Desk()
    assert all(desk.send(prompt("Any mail?"), run=f"r{n}").findings == () for n in range(50))


def test_questions_of_strangers_only_warn() -> None:
    desk = Desk(LoopPolicy(), agent=None, run=None, path=())
    assert all(desk.send(prompt("hi")).findings == () for _ in range(50))
    judged = [desk.send(prompt("hi"), run="r", agent="b", path=("a", "b")) for _ in range(102)]
    assert [n for n, found in enumerate(judged) if found.findings] == [10, 100]
    assert {each.action for found in judged for each in found.findings} == {"warn"}
    long = f"Say it short: {'many words ' * 2_000}"
    assert all(desk.send(prompt(long), run="r").findings == () for _ in range(9))
    talk = [ASK, Say("assistant", "Where to?"), Say("user", "Seattle")]
    for run, action in ((None, "warn"), ("r", "refuse")):
        told = [desk.tell(talk, run=run) for _ in range(4)]
        assert [found.action for found in told[-1].findings] == [action]


def test_agents_that_take_turns_with_nothing_new() -> None:
    desk = Desk(LoopPolicy(max_repeats=None))
    found: list[str] = []
    for _ in range(6):
        for agent in ("asker", "teller"):
            judged = desk.send(prompt(f"{agent}, go on"), agent=agent, path=("office", agent))
            found += guards(judged)
            if judged.findings:
                assert set(judged.findings[0].agents) == {"asker", "teller"}
    assert set(found) == {"max_rounds_without_news"}


@pytest.mark.parametrize(
    ("facts", "guard"),
    [
        ({"path": tuple(f"a{n}" for n in range(11))}, "max_depth"),
        ({"path": ("desk",), "depth": 11}, "max_depth"),
        ({"path": ("desk", "b", "desk", "b", "desk", "b", "desk")}, "max_visits"),
        ({"run_calls": 20_000}, "max_calls_per_run"),
        ({"run_nanos": 100_000_000_000}, "max_usd_per_run"),
    ],
)
def test_where_a_call_stands(facts: dict[str, Any], guard: str) -> None:
    assert guards(Desk().send(**facts)) == [guard]


def test_just_below_every_limit() -> None:
    path = (*("desk", "b") * 2, "desk", *(f"c{n}" for n in range(5)))
    assert Desk().send(path=path, run_calls=19_999, run_nanos=99_990_000_000).findings == ()


def test_the_rates_of_one_agent_brake() -> None:
    desk = Desk(LoopPolicy(max_calls_per_minute=5, max_runs_per_minute=4))
    found = [desk.send(prompt(f"q{n}" * n), run=f"r{n}") for n in range(1, 9)]
    assert [guards(each) for each in found[:4]] == [[]] * 4
    assert "max_runs_per_minute" in guards(found[4])
    assert guards(found[6]) == ["max_calls_per_minute", "max_runs_per_minute"]
    assert [each.action for each in found[6].findings] == ["brake", "brake"]
    assert [each.pause_s for each in found[4:8]] == [0.5, 1.0, 2.0, 4.0]
    assert desk.send(prompt("other"), agent="other", run="x").findings == ()


@pytest.mark.parametrize("action", ["warn", "brake", "refuse"])
def test_the_action_is_what_the_policy_says(action: Any) -> None:
    desk = Desk(LoopPolicy(actions={"max_repeats": action}))
    judged = [desk.send(prompt("hi")) for _ in range(6)]
    assert [found.action for found in judged[-1].findings] == [action]
    assert (judged[-1].refusal is not None) is (action == "refuse")
    assert judged[-1].pause_s == (2.0 if action == "brake" else 0.0)


def test_every_agent_has_its_own_limits() -> None:
    desk = Desk(
        LoopPolicy(
            agents={"poller": {"max_repeats": None}, "strict": {"max_repeats": 2, "actions": {"max_repeats": "refuse"}}}
        )
    )
    assert all(desk.send(prompt("hi"), agent="poller", run="p").findings == () for _ in range(20))
    assert [guards(desk.send(prompt("hi"), agent="strict", run="s")) for _ in range(3)] == [[], [], ["max_repeats"]]


def test_polling_that_is_meant_is_allowed_by_the_name_of_its_tool_or_agent() -> None:
    desk = Desk(LoopPolicy(allow=["sea*", "poller"]))
    assert desk.tell([ASK, *[SEARCH] * 20]).findings == ()
    assert all(desk.send(prompt("hi"), agent="poller").findings == () for _ in range(20))
    assert guards(desk.tell([ASK, *[Step("find", {}, "[]")] * 20])) == ["max_repeats"]


def test_a_poll_that_moves_warns() -> None:
    judged = Desk().tell([ASK, *(Step("job", {}, f"{n * 3}% {'.' * n}") for n in range(26))])
    assert [(each.guard, each.action) for each in judged.findings] == [("max_polls", "warn")]


def test_the_refusal_says_which_guard_the_evidence_and_the_remedy() -> None:
    strict = LoopPolicy(actions={"max_repeats": "refuse"})
    desk = Desk(strict, run_nanos=1_250_000_000, run_calls=9, run_since_s=900.0)
    for _ in range(3):
        desk.send(prompt("hello there"))
    judged = desk.send(prompt("hello there"))
    assert judged.refusal is not None
    error = refused(judged.refusal, Facts(desk.at_s, agent="desk", run="r", path=("desk",)))
    assert isinstance(error, LoopDetected)
    assert (error.guard, error.count, error.limit, error.agents, error.run) == ("max_repeats", 3, 3, ("desk",), "r")
    assert error.since_s == 1_002.0
    assert error.evidence["run_usd"] == "1.25"
    assert error.remedy == "If it is meant, set LoopPolicy(agents={'desk': {'max_repeats': 6}})."
    for words in ("'desk'", "max_repeats is 3", "3 times", "6 s", "$1.25", error.remedy):
        assert words in str(error)
    assert "hello" not in repr((str(error), error.details))
    json.dumps(error.evidence)
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.details) == (str(error), error.details)


def test_the_remedy_names_the_tool() -> None:
    judged = Desk().tell([ASK, *[SEARCH] * 3])
    assert judged.refusal is not None
    assert "LoopPolicy(allow=['search'])" in judged.refusal.message
    assert judged.refusal.evidence["tools"] == ["search"]


def test_depth_has_its_own_error() -> None:
    facts = Facts(1.0, agent="a", run="r", path=("a",) * 11)
    judged = judge(LoopPolicy(max_visits=None), Memory(b"k"), facts)
    assert judged.refusal is not None
    error = refused(judged.refusal, facts)
    assert isinstance(error, DepthExceeded)
    assert (error.depth, error.max_depth, len(error.path)) == (11, 10, 11)


def test_a_limit_of_none_lifts_it() -> None:
    lifted: dict[str, Any] = dict.fromkeys(GUARDS)
    desk = Desk(LoopPolicy(**lifted), run_calls=10**9, run_nanos=10**18, path=("a",) * 99)
    for _ in range(20):
        assert desk.tell([ASK, *[SEARCH] * 30]).findings == ()


def test_a_body_that_cannot_be_read_is_no_loop() -> None:
    desk = Desk()
    for written in (b"", b"{", b"[]", b'{"messages": 5}', None):
        assert all(desk.send(written).findings == () for _ in range(6))


def test_who_waits_is_slowed_down_late_and_stopped_if_the_policy_says_so() -> None:
    wait = Step("get_job", {"id": "j"}, "still running")
    found = [Desk(LoopPolicy()).tell([ASK, *[wait] * times]) for times in (8, 17, 18)]
    assert [[each.action for each in judged.findings if each.guard == "max_repeats"] for judged in found] == [
        [],
        [],
        ["brake"],
    ]
    assert found[2].pause_s > 0
    assert Desk().tell([ASK, *[wait] * 18]).refusal is not None


def test_who_only_moves_on_is_stopped_late() -> None:
    press = Step("press_key", {"key": "ArrowDown"}, "pressed")
    found = [Desk(LoopPolicy()).tell([ASK, *[press] * times]).refusal for times in (17, 18)]
    assert [each and each.guard for each in found] == [None, "max_repeats"]


def test_a_question_that_one_agent_asks_again_is_not_told() -> None:
    desk = Desk(LoopPolicy())
    assert [guards(desk.send(prompt("What is the time?"))) for _ in range(12)] == [[]] * 12
