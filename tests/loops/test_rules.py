"""Rules that an independent author of hard loops and of hard work brought to light: each with both of its sides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.loops.dialects import DIALECTS, Say, Step, Told, body
from tokenmeter import LoopPolicy
from tokenmeter.loops.asked import open_request
from tokenmeter.loops.findings import Facts
from tokenmeter.loops.guard import Memory, judge
from tokenmeter.loops.history import look
from tokenmeter.loops.steps import read_items
from tokenmeter.loops.wording import in_order, is_filled_in, is_prose, words

EVERY = pytest.mark.parametrize("dialect", DIALECTS)
ASK = Say("user", "Please see to it.")


def found(protocol: str, sent: dict[str, Any] | bytes) -> dict[str, int]:
    asked = open_request(protocol, sent if isinstance(sent, bytes) else json.dumps(sent).encode())
    assert asked is not None
    return {each.kind: each.times for each in look(asked.turns)}


def seen(dialect: str, told: Told) -> dict[str, int]:
    return found(*body(dialect, told))


def talk(lines: list[str], answers: list[str]) -> dict[str, int]:
    """A chat as current SDKs send it, in UTF-8."""
    messages = []
    for line, answer in zip(lines, answers, strict=True):
        messages += [{"role": "assistant", "content": line}, {"role": "user", "content": answer}]
    return found("openai.chat", json.dumps({"messages": messages}, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    "result",
    [
        "1. Running shoe X1, 2. Running shoe X2",
        "building  docs  src",
        "Error: server not running",
        "Running 5 tests... 1 failed",
        "Processing error: invalid id",
        "Error: non-pending order cannot be cancelled",
        "'training' is not one of the categories",
        "rebase in progress; onto 3f2a, conflict in a.py",
        "already running",
        "Marathon training for beginners",
        "not ready for review because two files lack tests",
        json.dumps({"order": "W1", "status": "pending", "items": ["a lamp of brass"] * 20}),
        json.dumps([{"task": "write the page", "done": False}, {"task": "read it", "done": True}]),
        json.dumps({"todos": [{"task": "write the page", "completed": False}]}),
    ],
)
@EVERY
def test_a_word_of_waiting_in_what_is_found_is_no_wait(dialect: str, result: str) -> None:
    assert seen(dialect, [ASK, *[Step("run", {"what": "it"}, result)] * 5]).get("same") == 5


@pytest.mark.parametrize(
    "result",
    [
        "CAPCHA_NOT_READY",
        "202 Accepted",
        "job 7: running",
        "still building",
        '{"id": "j", "status": "in_progress", "error": null}',
        "state=PENDING",
        json.dumps({"job": "j", "done": False}),
        "Deploying...",
        "The export has not finished yet.",
        json.dumps({"job": "j", "status": "running", "steps": ["fetch the pages of the catalogue"] * 12}),
        "No new messages",
    ],
)
@EVERY
def test_a_status_is_told_as_a_status(dialect: str, result: str) -> None:
    assert "same" not in seen(dialect, [ASK, *[Step("look", {"id": "7"}, result)] * 8])


@EVERY
def test_who_fails_beside_a_status_goes_round(dialect: str) -> None:
    told = [Step("list", {}, "7: running"), Step("start", {"n": 7}, "Error: it can't be started")] * 4
    assert seen(dialect, [ASK, *told])["same"] >= 3


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("get_wait_times", {"at": "gate"}), ("swipe_card", {"n": 1}), ("turn_on_lamp", {}), ("run", {"input": ""})],
)
def test_names_that_only_sound_like_it(name: str, arguments: dict[str, Any]) -> None:
    assert seen("openai chat", [ASK, *[Step(name, arguments, "declined by the bank")] * 4])["same"] == 4


def call(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "id": f"{kind}_1", "status": "completed", **fields}


HOSTED = [
    [
        call("apply_patch_call", call_id="a", operation={"type": "update_file", "diff": f"+ line {n}"}),
        call("apply_patch_call_output", call_id="a", output="done"),
    ]
    for n in range(6)
]
SEARCHES = [[call("web_search_call", action={"type": "search", "query": f"ships to {to}"})] for to in "abcdef"]
CODE = [[call("code_interpreter_call", code=f"print({n} + 1)", outputs=[{"logs": "x" * n}])] for n in range(6)]
MCP = [
    [call("mcp_call", name="get", arguments="{}", output=f"record of {to}")] for to in ("Ada", "Bo", "Cy", "Di", "Ed")
]


@pytest.mark.parametrize("work", [HOSTED, SEARCHES, CODE, MCP], ids=["patch", "search", "code", "mcp"])
def test_the_providers_own_tools_are_steps(work: list[list[dict[str, Any]]]) -> None:
    test = [
        {"type": "function_call", "call_id": "t", "name": "test", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t", "output": "1 failed: test_a"},
    ]
    start = {"role": "user", "content": "Mend it."}
    assert "same" not in found(
        "openai.responses", {"input": [start, *(item for each in work for item in (*each, *test))]}
    )
    assert found("openai.responses", {"input": [start, *(work[0] * 5)]})["same"] >= 4


def test_the_providers_own_tools_of_anthropic() -> None:
    def told(queries: list[str]) -> dict[str, int]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Find a ship."}]
        for number, query in enumerate(queries):
            use = {"type": "server_tool_use", "id": f"s{number}", "name": "web_search", "input": {"query": query}}
            result = {"type": "web_search_tool_result", "tool_use_id": f"s{number}", "content": [{"title": query}]}
            messages.append({"role": "assistant", "content": [use, result]})
            messages.append({"role": "user", "content": "Continue."})
        return found("anthropic.messages", {"messages": messages})

    assert told(["ships", "ferries", "harbours", "islands", "tides", "winds"]) == {}
    assert told(["ships"] * 6)["same"] >= 3


def test_documents_of_a_search_are_known_by_what_they_say() -> None:
    def told(numbers: list[int]) -> dict[str, int]:
        messages: list[dict[str, Any]] = []
        for number in numbers:
            page = {
                "type": "search_result",
                "source": "https://h/",
                "content": [{"type": "text", "text": "x" * number}],
            }
            messages += [{"role": "user", "content": [page]}, {"role": "assistant", "content": "I read on."}]
        return found("anthropic.messages", {"messages": messages})

    assert told([1, 2, 3, 4, 5, 6]) == {}
    assert told([1, 1, 1, 1, 1, 1])["same"] >= 3


def test_a_request_with_other_numbers_is_warned_of_only() -> None:
    """A history that is trimmed to its last steps: the next item of a batch has another number, and no more."""
    memory, policy = Memory(b"key"), LoopPolicy()
    actions = []
    for number in range(4_000, 4_020):
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Delete the mails of the list."}]
        function = {"name": "delete_mail", "arguments": json.dumps({"id": number})}
        messages.append({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]})
        messages.append({"role": "tool", "tool_call_id": "c", "content": "ok"})
        sent = json.dumps({"messages": messages}).encode()
        facts = Facts(float(number), "a", "r", ("a",), 1, "chat", "openai.chat", sent)
        judged = judge(policy, memory, facts)
        memory.answered(judged.ticket)
        actions += [each.action for each in judged.findings]
    assert set(actions) == {"warn"}


ZH = ["请问您有车吗?", "请问您抽烟吗?", "请问您有孩子吗?", "请问您会游泳吗?", "请问您喜欢音乐吗?", "请问您住在城里吗?"]
RU = ["Как переводится стол?", "Как переводится окно?", "Как переводится дверь?", "Как переводится лампа?"]
TH = ["คุณมีรถไหม", "คุณสูบบุหรี่ไหม", "คุณมีลูกไหม", "คุณว่ายน้ำได้ไหม", "คุณชอบดนตรีไหม"]


@pytest.mark.parametrize("questions", [ZH, RU, TH], ids=["zh", "ru", "th"])
def test_other_scripts_have_other_words(questions: list[str]) -> None:
    assert talk(questions, ["好", "不", "好", "不", "好", "不"][: len(questions)]) == {}
    assert talk(questions[:1] * 5, ["好"] * 5)["same"] >= 3


def test_words_of_scripts_without_spaces_are_pairs_of_letters() -> None:
    assert words("请问您有车吗?".encode()) != words("请问您抽烟吗?".encode())
    assert len(words("请问您有车吗?".encode()) & words("请问您抽烟吗?".encode())) >= 2
    assert is_prose("请问您有车吗?".encode())
    assert not is_prose("🔴⚪⚪🔴⚪🔴".encode())
    assert not is_prose(b'"X . O\\n. X O\\n. . X"')
    assert is_prose(b'"I am at a loss: is it a 4 or a 9?"')


def test_a_form_may_be_filled_in_with_words_that_were_heard() -> None:
    shelves = ["red", "blue", "green", "red", "blue", "green"]
    states = ["full", "empty", "dusty", "empty", "dusty", "full"]
    asked = [f"Is the {a} box on the upper shelf {b}?" for a, b in zip(shelves, states, strict=True)]
    assert talk(asked, ["yes", "no"] * 3) == {}
    assert is_filled_in(in_order(b"I recommend our sales team to you"), in_order(b"I recommend our delivery to you"))
    assert not is_filled_in(in_order(b"I look at it once more for you"), in_order(b"I look at it again for you"))


@EVERY
def test_an_event_of_the_system_begins_a_new_row(dialect: str) -> None:
    if dialect not in {"openai chat", "openai responses"}:
        pytest.skip("its system stands beside the turns")

    def told(events: list[str]) -> dict[str, int]:
        steps: list[Step | Say] = [ASK]
        for event in events:
            steps += [Say("system", f"Event: motion {event}."), Step("ring_bell", {}, "ok")]
        return seen(dialect, steps)

    assert "same" not in told(["in the garden", "in the cellar", "at the gate", "on the roof", "by the pond"])
    assert told(["at the gate"] * 5)["same"] >= 4


@pytest.mark.parametrize("note", ["{n} turns left", "(step {n}/50)", "Token usage: {n}731/200000"])
def test_what_only_keeps_house_is_no_news(note: str) -> None:
    told: list[Step | Say] = [ASK]
    for number in range(9, 1, -1):
        told += [Step("search", {"for": "ships"}, "none"), Say("user", note.replace("{n}", str(number)))]
    assert seen("openai chat", told)["same"] >= 3


@pytest.mark.parametrize("period", [5, 7])
@EVERY
def test_long_cycles(dialect: str, period: int) -> None:
    steps = [Step(f"tool_{n}", {"of": "abcdefg"[n]}, f"found {'xyzuvwq'[n]}") for n in range(period)]
    assert seen(dialect, [ASK, *steps * 6])["same"] >= 3


@pytest.mark.parametrize(
    "results",
    [
        [f"1 failed, 4 passed in 0.{n}7s" for n in range(5)],
        [f"--- FAIL: TestA (0.0{n}s)\\nexit status 1" for n in range(5)],
        [f"failed at <object at 0x7f3c2d1{n}a0>" for n in range(5)],
        [f"systemd[42{n}17]: unit failed to start" for n in range(5)],
    ],
)
def test_how_long_a_run_took_that_failed_is_no_news(results: list[str]) -> None:
    assert seen("openai chat", [ASK, *(Step("test", {"path": "a"}, each) for each in results)])["same"] == 5


def test_how_long_a_run_takes_is_what_a_measure_tells() -> None:
    told = [Step("bench", {"path": "a"}, f"4 passed in 0.{n}7s") for n in (3, 1, 4, 2, 6)]
    assert "same" not in seen("openai chat", [ASK, *told])


def test_one_run_that_waits_slows_no_other_one() -> None:
    memory, policy = Memory(b"key"), LoopPolicy()
    protocol, sent = body("openai chat", [ASK, *[Step("get_job", {"id": "j"}, "still running")] * 20])
    pauses = {
        run: [judge(policy, memory, Facts(9.0, "a", run, ("a",), 1, "chat", protocol, sent)).pause_s for _ in range(4)]
        for run in ("one", "other")
    }
    assert pauses["one"] == pauses["other"] == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("browser_wait_for", {"selector": "!!"}, "Error: invalid selector"),
        ("press_key", {"key": "Hyper"}, "Error: no such key"),
        ("scroll_to", {"text": "Terms"}, "not found on this page"),
    ],
)
@EVERY
def test_what_fails_neither_waits_nor_moves(dialect: str, name: str, arguments: dict[str, Any], result: str) -> None:
    assert seen(dialect, [ASK, *[Step(name, arguments, result)] * 4])["same"] == 4


@EVERY
def test_what_was_asked_for_told_again_is_a_receipt(dialect: str) -> None:
    echo = "### Ran Playwright code\n```js\nawait page.keyboard.press('ArrowDown');\n```"
    assert "same" not in seen(dialect, [ASK, *[Step("browser_press_key", {"key": "ArrowDown"}, echo)] * 6])


@EVERY
def test_moves_beside_a_page_that_stays_the_same_go_round(dialect: str) -> None:
    page = Step("read_page", {}, "The harbour lies in the north, and nobody knows when the next ship will leave. " * 6)
    assert seen(dialect, [ASK, *[Step("press_key", {"key": "Down"}, "ok"), page] * 4])["same"] >= 3


def test_money_that_is_left_is_no_news() -> None:
    told: list[Step | Say] = [ASK]
    for number in range(9, 1, -1):
        told += [Step("search", {"for": "ships"}, "none"), Say("user", f"Budget left: ${number}.50")]
    assert seen("openai chat", told)["same"] >= 3


def test_numbers_in_two_places_are_news_though_each_was_heard() -> None:
    places = [("1", "2"), ("2", "3"), ("3", "1"), ("1", "3"), ("2", "1"), ("3", "2"), ("1", "1"), ("2", "2")]
    told: list[Step | Say] = []
    for one, other in places:
        told += [
            Say("user", f"The knight stands on row {one}, the rook of the king on row {other}."),
            Say("assistant", "On."),
        ]
    assert seen("openai chat", told).get("silent", 0) < 3


def test_a_row_of_waiting_that_fills_all_that_is_read_is_slowed_down() -> None:
    cycle = [Step("get_job", {"id": "j"}, "still running"), Step("list", {}, "nothing"), Step("mail", {}, "none")]
    for rounds, action in ((9, []), (16, ["brake"])):
        protocol, sent = body("openai chat", [ASK, *cycle * rounds])
        judged = judge(LoopPolicy(), Memory(b"key"), Facts(9.0, "a", "r", ("a",), 1, "chat", protocol, sent))
        assert [each.action for each in judged.findings if each.guard == "max_repeats"] == action


def test_what_a_conversation_begins_with_is_no_turn_of_it() -> None:
    protocol, sent = body("openai chat", [ASK, Say("assistant", "I begin."), Say("system", "Event: rain.")])
    asked = open_request(protocol, sent)
    assert asked is not None
    assert [item.who for item in read_items(asked.turns, 9)] == ["user", "assistant", "system"]


def test_words_of_other_scripts_keep_as_many_letters() -> None:
    assert words("передать".encode()) != words("перевод".encode())
