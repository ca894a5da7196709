"""The quick look says that there is news only where the close one finds nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.loops import history
from tokenmeter.loops.history import look
from tokenmeter.loops.news import ends_with_news, told_news_before

GREETING = "Hello, I have a question about my reservation."
WORDS = """
    reservation passenger upgrade baggage insurance departure arrival refund certificate membership cancel confirm
    Tuesday morning please thanks certainly understand problem airline connection delayed window seat
""".split()  # noqa: SIM905 - they read better so


def turns(*messages: Any) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(each)) for each in messages]


def talk(*texts: str) -> list[msgspec.Raw]:
    """The last is the user's."""
    roles = ("user", "assistant") if len(texts) % 2 else ("assistant", "user")
    return turns(*({"role": roles[at % 2], "content": text} for at, text in enumerate(texts)))


def test_a_question_of_its_own_is_news() -> None:
    said = [GREETING, "How may I help?", "Which aeroplanes depart for Reykjavik on weekends?"]
    assert ends_with_news(talk(*said), 26)
    assert not ends_with_news(talk(*said, "Two of them.", said[-1]), 26)


@pytest.mark.parametrize("text", ["ok", "yes please", "Thanks, go on.", "12 34", "…", ""])
def test_what_says_nothing_is_no_news(text: str) -> None:
    assert not ends_with_news(talk(GREETING, "How may I help?", text), 26)


def test_what_the_model_said_before_may_be_news() -> None:
    assert told_news_before(talk(GREETING, "Certainly: aeroplanes depart for Reykjavik on weekends.", "ok"))
    assert not told_news_before(talk(GREETING, "How may I help?", "ok"))
    step = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    after = talk("Certainly: aeroplanes depart for Reykjavik on weekends.", "ok")
    assert not told_news_before(turns({"role": "user", "content": GREETING}, step) + after)


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": "Aeroplanes depart for Reykjavik."},
        {"role": "tool", "tool_call_id": "1", "content": "Aeroplanes depart for Reykjavik."},
        {"role": "user", "content": [{"type": "tool_result", "content": "Aeroplanes depart for Reykjavik."}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"aeroplanes": "Reykjavik"}}}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Aeroplanes to Reykjavik"}, {"type": "text", "text": ""}],
        },
    ],
)
def test_only_one_text_of_a_user_is_looked_at(last: Any) -> None:
    assert not ends_with_news(turns({"role": "user", "content": GREETING}, last), 26)


SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)


def test_a_word_that_is_said_twice_is_one() -> None:
    said = [GREETING, "reservation baggage cancel", GREETING, "reservation baggage cancel upgrade baggage upgrade"]
    assert not ends_with_news(talk(*said[:3], "x", said[3]), 26)


@given(
    phrases=st.lists(SENTENCES, min_size=1, max_size=5),
    rounds=st.integers(2, 6),
    before=st.lists(SENTENCES, max_size=6),
    extra=st.lists(st.sampled_from([*WORDS, "Reykjavik", "aeroplanes"]), max_size=3),
)
def test_what_a_close_look_finds_is_not_passed_over(
    phrases: list[str], rounds: int, before: list[str], extra: list[str]
) -> None:
    said = [*before, *phrases * rounds]
    said[-1] = " ".join([said[-1], *extra])
    told = talk(*said)
    quick = look(told)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "ends_with_news", lambda _turns, _looked_at: False)
        patch.setattr(history, "told_news_before", lambda _turns: False)
        close = look(told)
    assert {each for each in close if each.times >= 3} <= set(quick)
