"""Loops that a conversation shows by itself, in every protocol; and work that looks like one and isn't."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.loops.dialects import DIALECTS, Say, Step, Told, body
from tokenmeter.loops.asked import open_request
from tokenmeter.loops.history import LAST_TURNS, look, nothing_allowed
from tokenmeter.loops.repeats import Repeats
from tokenmeter.loops.steps import read_items

EVERY = pytest.mark.parametrize("dialect", DIALECTS)
LONG = json.dumps([{"flight": "HAT069", "from": "JFK", "to": "SEA", "cabins": {"economy": "none left"}}] * 4)
ASK = Say("user", "Please find me a flight.")


def seen(dialect: str, told: Told, allowed: Any = nothing_allowed) -> dict[str, int]:
    asked = open_request(*body(dialect, told))
    assert asked is not None
    return {each.kind: each.times for each in look(asked.turns, allowed)}


def search(number: int = 1, result: str = "[]") -> Step:
    return Step("search", {"from": "JFK", "to": f"SE{number}"}, result)


@EVERY
def test_a_step_that_is_repeated_with_its_result(dialect: str) -> None:
    for times in (3, 4, 8, 28):
        assert seen(dialect, [ASK, *[search()] * times])["same"] == times


@EVERY
def test_it_takes_three(dialect: str) -> None:
    assert "same" not in seen(dialect, [ASK, search(), Step("think", {"x": "y"}, "")])


@EVERY
@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_cycle(dialect: str, period: int) -> None:
    steps = [Step(name, {"of": name}, f"found {name}") for name in string.ascii_lowercase[:period]]
    told: list[Step | Say] = [ASK, *(step for _ in range(3) for step in steps)]
    assert seen(dialect, told)["same"] == 3
    assert seen(dialect, told[: 1 + 2 * period]).get("same", 0) <= 2


@EVERY
def test_one_new_result_ends_it(dialect: str) -> None:
    told: list[Step | Say] = [ASK, *[search()] * 5, search(result="[7 seats]")]
    assert "same" not in seen(dialect, told)
    assert [seen(dialect, [*told, *[search()] * n]).get("same") for n in (1, 2, 3)] == [None, 2, 3]


@EVERY
def test_the_same_time_and_again_with_work_between(dialect: str) -> None:
    told: list[Step | Say] = [ASK]
    for number in range(8):
        told += [Step("edit", {"line": "x" * number}, "done"), Step("test", {}, "1 failed: test_a")]
    assert seen(dialect, told) == {}


@EVERY
@pytest.mark.parametrize(
    "results",
    [
        [f"no seats as of 2026-11-28T10:00:0{n}Z" for n in range(5)],
        [f"(attempt {n}) no seats" for n in range(5)],
        [f'{{"request_id": "7f3c2d1{n}-aaaa-4bbb-8ccc-0123456789ab", "seats": []}}' for n in range(5)],
        [f"{LONG} #{n}" for n in range(5)],
        [f"checked at 10:0{n}:00, nothing" for n in range(5)],
    ],
)
def test_a_result_that_differs_only_in_a_time_or_a_counter(dialect: str, results: list[str]) -> None:
    assert seen(dialect, [ASK, *(search(result=each) for each in results)])["same"] == 5


@EVERY
@pytest.mark.parametrize("key", ["attempt", "timestamp", "request_id", "requested_at", "nonce"])
def test_arguments_that_differ_only_in_what_is_none_of_the_question(dialect: str, key: str) -> None:
    steps = [Step("search", {"to": "SEA", key: 1_790_000_000 + n}, "[]") for n in range(4)]
    assert seen(dialect, [ASK, *steps])["same"] == 4


ERROR = "Error: payment method not found"


@EVERY
@pytest.mark.parametrize(
    "form",
    [
        lambda n: json.dumps({"result": ERROR, "n": n}),
        lambda n: json.dumps({"epoch": 1_790_000_000 + 17 * n, "result": ERROR}),
        lambda n: json.dumps({"result": ERROR, "request_no": n}),
        lambda n: json.dumps({"result": ERROR, "elapsed_ms": n * 37 % 100}),
        lambda n: f"{n} {ERROR}",
        lambda n: f"{n}: {ERROR}",
        lambda n: f"{ERROR} {n}",
        lambda n: f"[{n}] {ERROR}",
        lambda n: f"{ERROR}\n{n}",
        lambda n: f"[] {n}",
        lambda n: json.dumps({"views": n, "found": LONG, "lap": n}),
    ],
)
def test_a_counter_that_stands_apart_from_the_result(dialect: str, form: Any) -> None:
    found = seen(dialect, [ASK, *(search(result=form(n)) for n in range(1, 5))])
    assert found.get("same", 0) == (0 if "views" in form(1) else 4)


@EVERY
@pytest.mark.parametrize(
    "form",
    [
        lambda n: f"{n}",
        lambda n: f"{n} rows",
        lambda n: f"Uploading chunk {n}",
        lambda n: f"position in the queue: {n}",
        lambda n: f"2026-11-{n:02}",
        lambda n: json.dumps({"gauge": "the boiler in the cellar", "value": 20 + n / 10}),
        lambda n: json.dumps({"state": "RUNNING", "job": "nightly", "n": n}),
        lambda n: json.dumps({"found": LONG, "completed_tasks": n}),
        lambda n: f"{ERROR} {n * n}",
        lambda n: f"{9 - n} {ERROR}",
    ],
)
def test_a_number_that_is_what_the_result_says(dialect: str, form: Any) -> None:
    assert "same" not in seen(dialect, [ASK, *(search(result=form(n)) for n in range(1, 8))])


@EVERY
@pytest.mark.parametrize(
    ("args", "result", "same"),
    [
        (lambda n: {"to": "the harbour of Seattle", "n": n}, ERROR, 5),
        (lambda n: {"to": "the harbour of Seattle", "_": 1_790_000_000_000 + n}, ERROR, 5),
        (lambda n: {"to": f"the harbour of Seattle (#{n})"}, ERROR, 5),
        (lambda n: {"to": "the harbour of Seattle", "lap": n}, LONG, 5),
        (lambda n: {"to": "the harbour of Seattle", "lap": n}, ERROR, 0),
        (lambda n: {"to": "the harbour of Seattle", "page": n}, LONG, 0),
        (lambda n: {"to": "the harbour of Seattle", "order_id": n}, LONG, 0),
        (lambda n: {"folder": "the inbox of 2026", "i": n}, '{"status": "ok"}', 0),
        (lambda n: {"n": n}, ERROR, 0),
    ],
)
def test_a_counter_among_the_arguments(dialect: str, args: Any, result: str, same: int) -> None:
    found = seen(dialect, [ASK, *(Step("search", args(n), result) for n in range(1, 6))])
    assert found.get("same", 0) == same


@EVERY
def test_two_who_keep_each_other_waiting(dialect: str) -> None:
    asked = ["Any update on my refund?", "How is the refund going?", "Is my refund done yet?", "And the refund?"]
    said = [
        "I'm still checking the refund.",
        "Your refund is in progress.",
        "No news on the refund yet.",
        "One moment.",
    ]
    told: list[Step | Say] = [ASK, Say("assistant", "Which one?")]
    for one, other in zip(asked, said, strict=True):
        told += [Say("user", one), Say("assistant", other)]
    assert seen(dialect, told)["silent"] >= 3
    assert seen(dialect, told[:-1])["same"] >= 3


@EVERY
def test_short_questions_about_something_else_each_time(dialect: str) -> None:
    told: list[Step | Say] = [ASK]
    for seat in ("window", "aisle", "middle", "front", "rear", "exit"):
        told += [Say("assistant", f"Is the {seat} seat ok?"), Say("user", "No, thanks.")]
    for hour in range(9, 15):
        told += [Say("assistant", f"Would {hour} o'clock suit you?"), Say("user", "No.")]
    for length in range(2, len(told) + 1):
        found = seen(dialect, told[:length])
        assert "silent" not in found, length
        assert found.get("same", 0) < 3, length


@EVERY
def test_a_number_that_goes_on_for_the_same_long_result(dialect: str) -> None:
    steps = [Step("search", {"page": n}, LONG) for n in range(7)]
    assert seen(dialect, [ASK, *steps]) == {"restated": 7}
    steps = [Step("search", {}, json.dumps({"n": n, "found": LONG})) for n in range(13)]
    assert seen(dialect, [ASK, *steps]) == {"same": 13, "poll": 13}
    steps = [Step("search", {}, json.dumps({"seats_left": n, "found": LONG})) for n in range(13)]
    assert seen(dialect, [ASK, *steps]) == {"poll": 13}


MEANT: dict[str, Told] = {
    "a batch of writes": [Step("archive", {"mail": n}, '{"status": "ok"}') for n in range(101, 125)],
    "a scan": [Step("get_order", {"id": 1000 + n * 37}, "not found") for n in range(20)],
    "a search by date": [Step("search", {"day": f"2026-11-{n:02}"}, "[]") for n in range(1, 20)],
    "slots": [Step("book", {"at": f"2026-11-20T{n:02}:00:00"}, "taken") for n in range(8, 20)],
    "rows of numbers": [Step("row", {"n": n}, json.dumps({"row": n, "seats": n * 31 % 17})) for n in range(20)],
    "a job that goes on": [Step("job", {}, f"{n * 4}% done") for n in range(20)],
    "a job that counts": [Step("job", {}, json.dumps({"done": n, "of": 40})) for n in range(20)],
    "a reader": [Step("next_page", {}, f"page {n}: {random.Random(n).random()} words") for n in range(20)],
    "a typist": [Step("type", {"text": word}, "ok") for word in ["all", "work", "and", "no", "play"]],
    "a file that changes in its middle": [
        Step("read", {"path": "a.py"}, "x = 1\n" * 400 + word + "y = 2\n" * 400)
        for word in ("alpha", "gamma", "delta", "omega", "kappa")
    ],
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("work", MEANT)
def test_meant_work_is_no_loop(dialect: str, work: str) -> None:
    told = [ASK, *MEANT[work]]
    for length in range(2, len(told) + 1):
        found = seen(dialect, told[:length])
        assert found.get("same", 0) < 3, (length, found)
        assert found.get("restated", 0) < 6, (length, found)
        assert "silent" not in found


@EVERY
def test_a_poll_is_counted_apart(dialect: str) -> None:
    steps = [Step("job", {"id": "a"}, f"{'.' * n} {n * 3}%") for n in range(20)]
    assert seen(dialect, [ASK, *steps])["poll"] == 20


@EVERY
def test_speakers_with_nothing_new(dialect: str) -> None:
    thanks: list[Step | Say] = [Say("user", "Thank you!"), Say("assistant", "You're welcome!")]
    found = seen(dialect, [ASK, Say("assistant", "Here are flights to Seattle."), *thanks * 5, thanks[0]])
    assert found["silent"] >= 3
    assert found["same"] >= 4
    varied = [Say("user", w) for w in ("Thanks!", "Thank you!", "Thanks a lot!", "Bye!", "Thanks, bye!", "Bye bye!")]
    answers = [Say("assistant", w) for w in ("Welcome!", "You're welcome!", "Bye!", "Goodbye!", "Bye bye!", "Goodbye!")]
    talk = [each for pair in zip(varied, answers, strict=True) for each in pair]
    assert seen(dialect, [ASK, Say("assistant", "Here are flights to Seattle."), *talk])["silent"] >= 3


@EVERY
def test_speakers_with_news(dialect: str) -> None:
    rng = random.Random(4)
    nouns = [
        "harbour",
        "ticket",
        "engine",
        "garden",
        "letter",
        "window",
        "mirror",
        "copper",
        "violin",
        "saddle",
        "pepper",
    ]
    told: list[Step | Say] = [ASK]
    for _ in range(12):
        told += [
            Say("assistant", f"Shall I take the {' '.join(rng.sample(nouns, 3))} {rng.randrange(10**6)} now?"),
            Say("user", f"yes, {' and '.join(rng.choices(nouns, k=2))} {rng.choice(string.ascii_letters) * 7}"),
        ]
    assert "same" not in seen(dialect, told)


def test_a_user_who_answers_yes_to_new_questions() -> None:
    told: list[Step | Say] = [ASK]
    for word in ("harbour", "engine", "garden", "letter", "violin", "saddle", "mirror", "pepper"):
        told += [Say("assistant", f"The {word}'s {word}ing is ready for {word}land: do it?"), Say("user", "Yes.")]
        assert seen("openai chat", told).keys() <= {"same"}, told
        assert seen("openai chat", told).get("same", 0) <= 2


def test_what_is_allowed_by_name_counts_for_nothing() -> None:
    told: list[Step | Say] = [ASK, *[search()] * 9]
    assert seen("openai chat", told)["same"] == 9
    assert seen("openai chat", told, {"search"}.__contains__) == {}


def test_calls_side_by_side_are_one_step() -> None:
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(5)]
    answers = [{"role": "tool", "tool_call_id": f"c{n}", "content": "same"} for n in range(5)]
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": calls}, *answers]
    asked = open_request("openai.chat", json.dumps({"messages": messages}).encode())
    assert asked is not None
    assert [item.who for item in read_items(asked.turns, 64)] == ["user", "f+f+f+f+f"]
    assert look(asked.turns) == ()


def test_a_long_conversation_costs_no_more_than_its_tail() -> None:
    told: list[Step | Say] = [ASK, *(search(n, f"result {n}") for n in range(3_000)), *[search(0, "zero")] * 3]
    asked = open_request(*body("openai chat", told))
    assert asked is not None
    assert len(read_items(asked.turns, LAST_TURNS)) <= LAST_TURNS
    assert Repeats("same", 3, ("search",), 3) in look(asked.turns)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
KEYS = [
    "role",
    "content",
    "tool_calls",
    "type",
    "parts",
    "input",
    "output",
    "function_call",
    "name",
    "arguments",
    "text",
    "image_url",
    "source",
    "inlineData",
    "functionResponse",
]


@given(
    protocol=st.sampled_from(sorted({protocol for protocol, _ in DIALECTS.values()})),
    turns=st.lists(st.dictionaries(st.sampled_from(KEYS), json_values | st.sampled_from(KEYS), max_size=6), max_size=9),
    field=st.sampled_from(["messages", "input", "contents"]),
)
def test_it_never_raises(protocol: str, turns: list[Any], field: str) -> None:
    asked = open_request(protocol, json.dumps({field: turns}).encode())
    if asked is not None:
        look(asked.turns)


@given(st.binary(max_size=60))
def test_no_body_makes_it_raise(body: bytes) -> None:
    for protocol, _ in DIALECTS.values():
        asked = open_request(protocol, body)
        if asked is not None:
            look(asked.turns)


def found(name: str, args: dict[str, Any], *results: str) -> list[Step | Say]:
    return [ASK, *(Step(name, args, result) for result in results)]


@EVERY
@pytest.mark.parametrize("key", ["message_id", "trace_id", "call_id", "timestamp", "round", "sequence", "latency_ms"])
def test_what_is_asked_for_may_have_a_name_that_elsewhere_says_nothing(dialect: str, key: str) -> None:
    steps = [Step("archive", {key: f"18c2f0a9b3d4e5f{n}"}, '{"status": "archived"}') for n in range(8)]
    assert seen(dialect, [ASK, *steps]) == {}


@EVERY
def test_the_order_of_arguments_says_nothing(dialect: str) -> None:
    ways: list[dict[str, Any]] = [
        {"from": "JFK", "to": "SEA", "on": "Monday"},
        {"on": "Monday", "to": "SEA", "from": "JFK"},
    ]
    assert seen(dialect, [ASK, *(Step("search", ways[n % 2], "[]") for n in range(4))])["same"] == 4


@EVERY
@pytest.mark.parametrize(
    "form",
    [
        '{{"output": "no seats", "execution_time": {:.7f}}}',
        '{{"result": "no seats", "responseTime": "{:.0f}ms"}}',
        '{{"ok": true, "data": "no seats", "timestamp": 17903001{:.3f}}}',
        "no seats\n\n(completed in {:.2f}s)",
        "no seats\nWall time: {:.4f} seconds",
        "no seats\nExecution time: {:.0f} ms",
    ],
)
def test_how_long_it_took_says_nothing(dialect: str, form: str) -> None:
    times = [10 + 7.7137 * n % 5 for n in range(5)]
    assert seen(dialect, found("search", {"to": "SEA"}, *map(form.format, times)))["same"] == 5


@EVERY
@pytest.mark.parametrize(
    "results",
    [
        [f"You rolled {n}." for n in (3, 17, 5, 11, 19, 2)],
        [f"Your card from the shuffled deck is number {n}" for n in (37, 3, 28, 31, 37, 1, 14, 30, 53, 32)],
        [f"Your card from the shuffled deck is number {n}" for n in (12, 8, 43, 29, 22, 16, 13, 32, 41, 32)],
        [f'{{"id": "{n:08x}-5717-4562-b3fc-2c963f66afa6"}}' for n in (0x3FA85F64, 0x99A85F61, 0x1FA85F6A, 0xCFA85F68)],
        [f"{n:040x}" for n in (3**80, 5**60, 7**50, 11**40)],
    ],
)
def test_a_number_or_an_id_may_be_the_answer(dialect: str, results: list[str]) -> None:
    assert "same" not in seen(dialect, found("draw", {"from": "the deck"}, *results))


@EVERY
def test_a_step_between_news_of_the_user(dialect: str) -> None:
    told: list[Step | Say] = []
    for item in (
        "a reading lamp for the desk",
        "two pairs of wool socks",
        "that garden hose",
        "blue paint, five litres",
    ):
        told += [Say("user", f"Is {item} in my cart?"), Step("get_cart", {}, '{"items": []}')]
    assert seen(dialect, told) == {}
    idle = [each for n in range(4) for each in (Say("user", "And now?"), Step("get_cart", {}, '{"items": []}'))]
    assert seen(dialect, [ASK, *idle])["same"] >= 3


@EVERY
def test_a_form_with_another_item(dialect: str) -> None:
    told: list[Step | Say] = [ASK]
    for item in ("lamp", "hose", "sofa", "kettle", "mirror", "ladder"):
        told += [Say("assistant", f"Shall I add the {item} to your shopping cart?"), Say("user", "Yes")]
    assert seen(dialect, told) == {}


@EVERY
def test_a_time_of_day_in_speech_is_what_is_said(dialect: str) -> None:
    told: list[Step | Say] = [ASK]
    for hour in range(8, 14):
        told += [Say("assistant", f"Does {hour}:30 work for you?"), Say("user", "No.")]
    assert seen(dialect, told) == {}


def test_short_results_are_looked_at_in_parts_that_bear_an_id() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"text": "Is it ready?"}]}]
    for number in range(4):
        call = f"tooluse_{'kQxZvWjYhT'[number:]}Rm{number}LpSnGtUo"
        use = {"toolUse": {"toolUseId": call, "name": "get_job", "input": {"id": "j"}}}
        result = {"toolResult": {"toolUseId": call, "content": [{"json": {"state": "PENDING"}}], "status": "success"}}
        messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    for last in ([], [{"cachePoint": {"type": "default"}}]):
        sent = [*messages[:-1], {**messages[-1], "content": [*messages[-1]["content"], *last]}]
        asked = open_request("bedrock.converse", json.dumps({"messages": sent}).encode())
        assert asked is not None
        assert [(each.kind, each.times) for each in look(asked.turns)] == [("waits", 4), ("poll", 4)]


@EVERY
def test_a_number_that_is_all_that_is_asked_for(dialect: str) -> None:
    told = [Step("mark_paid", {"invoice": 4_100 + n}, LONG) for n in range(8)]
    assert "same" not in seen(dialect, [ASK, *told])
    told = [Step("mark_paid", {"consignment": 4_100 + n}, LONG) for n in range(8)]
    assert "same" not in seen(dialect, [ASK, *told])
    beside = [Step("mark_paid", {"to": "SEA", "lap": 4_100 + n}, LONG) for n in range(8)]
    assert seen(dialect, [ASK, *beside])["same"] == 8


@EVERY
def test_other_words_at_another_time(dialect: str) -> None:
    asking = "Please|Could you|Kindly|I would still like you to|Do|Once more, please|May I ask you to|You might now"
    waiting = "Sorry, wait|Please hold on|One moment|Hang tight|Just a moment|Thanks for your patience|Wait|Soon"
    told: list[Step | Say] = [ASK]
    for n, (ask, wait) in enumerate(zip(asking.split("|"), waiting.split("|"), strict=True)):
        at = f"2026-11-28T1{n}:0{n}:1{n}Z"
        told.append(Say("assistant", f"{at} {ask} send the quarterly revenue figures of the northern region"))
        told.append(Say("user", f"{wait}: our finance department prepares these figures. {at}"))
    assert seen(dialect, told)["silent"] >= 5


WAITS = [
    ("BashOutput", {"bash_id": "1"}, "<status>running</status>\n\n<timestamp>2026-11-28T10:00:0{n}Z</timestamp>"),
    ("execute_bash", {"command": "", "is_input": "true"}, "[The command has no new output after 30.0 seconds. " + LONG),
    ("bash", {"command": "sleep 30 && gh pr checks 12"}, "lint: no result yet, see the page of the run\n" + LONG),
    ("bash", {"command": "sleep 60; tail -2 build.log"}, ""),
    ("view_background_agent", {"task_id": "1"}, "Status: running\nRuntime: {n}s"),
    ("get_job", {"id": "j"}, "pending"),
    ("wait_for_page", {"page": "/done"}, "The page was not shown."),
    ("computer", {"action": "wait"}, LONG),
    ("write_stdin", {"session_id": "3", "chars": ""}, LONG),
]


@EVERY
@pytest.mark.parametrize(("name", "arguments", "result"), WAITS)
def test_who_waits_hears_the_same(dialect: str, name: str, arguments: dict[str, Any], result: str) -> None:
    told = [Step(name, arguments, result.replace("{n}", str(n))) for n in range(8)]
    assert "same" not in seen(dialect, [ASK, *told])
    assert "same" not in seen(dialect, [ASK, *(step for each in told for step in (each, Step("list", {}, "nothing")))])


@EVERY
@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("get_order", {"order_id": "W1"}, json.dumps({"status": "pending", "items": ["a lamp of brass"] * 20})),
        ("search", {"query": "how long to wait"}, "nothing was found"),
        ("search", {"query": "I sleep 8 hours"}, "nothing was found"),
        ("waiter", {"table": "4"}, "nobody"),
    ],
)
def test_a_word_of_waiting_is_no_wait(dialect: str, name: str, arguments: dict[str, Any], result: str) -> None:
    assert seen(dialect, [ASK, *[Step(name, arguments, result)] * 4])["same"] == 4


@EVERY
def test_who_scrolls_hears_only_that_it_was_done(dialect: str) -> None:
    assert seen(dialect, [ASK, *[Step("browser_scroll", {"by": "1 page"}, "Scrolled down")] * 8])["moves"] == 8
    assert seen(dialect, [ASK, *[Step("browser_scroll", {"by": "1 page"}, LONG)] * 8])["same"] == 8


def pictures(number: int) -> list[tuple[str, dict[str, Any]]]:
    """Parts of a user's turn, one for each way to give a picture."""
    data = f"iVBORw0KGgo{number:04}" * 20
    return [
        ("openai.chat", {"type": "image_url", "image_url": {"url": f"https://h/{number}.png"}}),
        ("openai.chat", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}),
        ("openai.responses", {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}),
        ("openai.responses", {"type": "input_image", "file_id": f"file-{number:024}"}),
        (
            "anthropic.messages",
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        ),
        ("anthropic.messages", {"type": "image", "source": {"type": "url", "url": f"https://h/{number}.png"}}),
        ("gemini.generate", {"inlineData": {"mimeType": "image/png", "data": data}}),
        ("gemini.generate", {"fileData": {"fileUri": f"https://h/{number}"}}),
        ("bedrock.converse", {"image": {"format": "png", "source": {"bytes": data}}}),
    ]


@pytest.mark.parametrize("way", range(len(pictures(0))))
@pytest.mark.parametrize("caption", [None, "This is what the screen shows now."])
def test_a_picture_is_known_by_what_it_shows(way: int, caption: str | None) -> None:
    def shown(numbers: list[int]) -> dict[str, int]:
        turns: list[dict[str, Any]] = []
        for number in numbers:
            protocol, part = pictures(number)[way]
            text = {"type": "output_text"} if protocol == "openai.responses" else {}
            parts = (
                [part] if caption is None else [{"text": caption, **({"type": "text"} if "type" in part else {})}, part]
            )
            said = {"text": "I press the button to go up.", **text}
            if protocol == "gemini.generate":
                turns += [{"role": "user", "parts": parts}, {"role": "model", "parts": [said]}]
            else:
                said = said if protocol == "bedrock.converse" else {"type": "text", **said}
                turns += [{"role": "user", "content": parts}, {"role": "assistant", "content": [said]}]
        protocol, _ = pictures(0)[way]
        field = {"openai.responses": "input", "gemini.generate": "contents"}.get(protocol, "messages")
        asked = open_request(protocol, json.dumps({field: turns}).encode())
        assert asked is not None
        return {each.kind: each.times for each in look(asked.turns)}

    assert shown([1, 2, 3, 4, 5, 6]) == {}
    assert shown([1, 2, 3, 3, 3, 3])["same"] >= 3


def test_pictures_within_the_answer_of_a_function() -> None:
    def shown(numbers: list[int]) -> dict[str, int]:
        turns: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": "Open the menu."}]}]
        for number in numbers:
            media = [{"inlineData": {"mimeType": "image/png", "data": f"iVBORw0KGgo{number:04}"}}]
            answer = {"name": "click", "response": {"result": "clicked"}, "parts": media}
            turns.append({"role": "model", "parts": [{"functionCall": {"name": "click", "args": {"x": 4}}}]})
            turns.append({"role": "user", "parts": [{"functionResponse": answer}]})
        asked = open_request("gemini.generate", json.dumps({"contents": turns}).encode())
        assert asked is not None
        return {each.kind: each.times for each in look(asked.turns)}

    assert "same" not in shown([1, 2, 3, 4, 5])
    assert shown([1, 1, 1, 1])["same"] == 4


def test_what_the_system_says_on_the_way_is_a_turn() -> None:
    def told(results: list[str]) -> dict[str, int]:
        messages = [{"role": "system", "content": "You are an agent."}]
        for result in results:
            messages.append({"role": "user", "content": "Determine which command to use next."})
            messages.append({"role": "assistant", "content": '{"command": "next_record"}'})
            messages.append({"role": "system", "content": f"Command next_record returned: {result}"})
        asked = open_request("openai.chat", json.dumps({"messages": messages}).encode())
        assert asked is not None
        return {each.kind: each.times for each in look(asked.turns)}

    assert told(["Ada, London", "Grace, New York", "Edsger, Rotterdam", "Barbara, Los Angeles"]) == {}
    assert told(["Error: no such file"] * 4)["same"] == 4


@EVERY
@pytest.mark.parametrize("size", [12_000, 40_000])
def test_large_results_are_looked_at(dialect: str, size: int) -> None:
    step = Step("read_file", {"path": "history.jsonl"}, ("1: the harbour lies in the north\n" * 2_000)[:size])
    assert seen(dialect, [ASK, *[step] * 5])["same"] == 5


@EVERY
@pytest.mark.parametrize(
    "boards",
    [
        ["@....\n.....", ".@...\n.....", "..@..\n.....", "..@..\n..#..", "...@.\n..#..", "....@\n..#.."],
        [
            f"You stand at {x}, {y} and the door is at 4, 4."
            for x, y in ((0, 1), (1, 0), (4, 0), (0, 4), (1, 4), (4, 1))
        ],
    ],
)
def test_where_things_stand_is_what_a_board_says(dialect: str, boards: list[str]) -> None:
    told: list[Step | Say] = []
    for board in boards:
        told += [Say("user", board), Say("assistant", "I go on.")]
    assert seen(dialect, told).get("silent", 0) < 3
    assert seen(dialect, [*told, *[Say("user", boards[-1]), Say("assistant", "I go on.")] * 3])["silent"] >= 3


@EVERY
def test_large_results_that_differ_in_a_time_are_the_same(dialect: str) -> None:
    text = "1: the harbour lies in the north\n" * 300
    told = [Step("read_log", {"path": "a"}, f"{text}read at 10:00:0{n}\n{text}") for n in range(5)]
    assert seen(dialect, [ASK, *told])["same"] == 5
    grown = [Step("read_log", {"path": "a"}, f"{text}{text[: 33 * n]}") for n in range(40, 45)]
    assert "same" not in seen(dialect, [ASK, *grown])
