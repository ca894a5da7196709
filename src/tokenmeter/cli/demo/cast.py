"""The agents of the demonstration, and the provider that answers them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tokenmeter import Budget, LoopPolicy, Meter, Refused
from tokenmeter.cli.demo.clients import Chat, anthropic_chat, async_chat, openai_chat, plain_chat
from tokenmeter.testing import Reply, Request, ScriptedProvider

BUDGETS = (
    Budget("$0.05", per="day", scope="agent", name="each agent, a day", thresholds=()),
    Budget("$0.25", per="day", scope="team", name="each team, a day", thresholds=()),
    Budget("8 calls", per="run", match={"agent": "*-bot"}, name="chat bots, a run", thresholds=()),
)
LOOPS = LoopPolicy(max_depth=4)

PATIENCE = 400  # calls after which an agent that nobody stopped gives up, and the demonstration has failed
ABANDONED_AFTER_WORDS = 12

_MAIL = (
    "From: facilities\nSubject: Re: Re: Re: the plants on the fourth floor\n\n"
    + "Thank you for the summary of the summary. We have read it and would like to add that the plants are well. " * 12
)
_REPORT = "Revenue rose in the north and fell in the south; the reasons are given below at some length. " * 25
_CODE = "def total(rows):\n    return sum(row.amount for row in rows if row.booked)\n\n" * 18
_SAID = "The short of it is that nothing has to be done today, and that somebody should look again next week. "

_REPLIES = {
    "gpt-6-sol": Reply("Priority: low. " + _SAID, output_tokens=90, delay_s=0.03),
    "gpt-6-luna": Reply("Good point! And what do you think?", output_tokens=40, delay_s=0.03),
    "gpt-6.1-terra": Reply("See the sources. " + _SAID, output_tokens=160, reasoning_tokens=96, delay_s=0.06),
    "mistral-small-latest": Reply(_SAID * 2, chunk_delay_s=0.004),
    "claude-sonnet-5": Reply("def total(rows): ...", output_tokens=310, cache_read_tokens=128, delay_s=0.06),
}


def answer(request: Request) -> Reply:
    """What the provider says to each model's callers."""
    return _REPLIES[request.model or ""]


SLOW = Reply(_SAID * 6, stall_after_chunks=ABANDONED_AFTER_WORDS)
"""A stream that comes to a stand, so that its reader leaves: its usage never arrives."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the agents work with."""

    meter: Meter
    provider: ScriptedProvider
    slow: ScriptedProvider
    say: Callable[[str, str], None]  # agent, what it does
    refused: Callable[[str, Refused], None]


class NotStopped(Exception):
    """An agent that should have been refused was not."""


def mail_triage(stage: Stage) -> None:
    """Each summary is a new mail, which wants to be triaged: endless, were it not for the budget."""
    stage.say("mail-triage", "triages the inbox; each summary lands in the inbox")
    agent = stage.meter.agent("mail-triage", user="alice", team="support")
    with closing(openai_chat(stage.meter, stage.provider)) as chat, agent:
        _until_refused(stage, "mail-triage", chat, _MAIL, "gpt-6-sol", cap=150)


def chat_bots(stage: Stage) -> None:
    """Two bots are polite to each other."""
    stage.say("greeter-bot", "talks to answer-bot, which answers")
    agent = stage.meter.agent("greeter-bot", user="alice", team="support", run="small-talk")
    with closing(plain_chat(stage.meter, stage.provider)) as chat, agent:
        for turn in range(PATIENCE):
            try:
                if turn % 2:
                    with stage.meter.agent("answer-bot"):
                        chat.ask("Good point! " * 20, model="gpt-6-luna", cap=60)
                else:
                    chat.ask("What do you think? " * 20, model="gpt-6-luna", cap=60)
            except Refused as refusal:
                return stage.refused(refusal.agent or "greeter-bot", refusal)
    raise NotStopped("greeter-bot")


def summariser(stage: Stage) -> None:
    """Streams two summaries, and leaves the third when it comes to a stand."""
    stage.say("summariser", "streams summaries; leaves one that came to a stand")
    with (
        closing(openai_chat(stage.meter, stage.provider)) as chat,
        closing(openai_chat(stage.meter, stage.slow)) as slow,
        stage.meter.agent("summariser", user="bob", team="sales", document="quarter"),
    ):
        for _ in range(2):
            "".join(chat.words(_REPORT, model="mistral-small-latest", cap=400))
        words = slow.words(_REPORT, model="mistral-small-latest", cap=400)
        for _ in itertools.islice(words, ABANDONED_AFTER_WORDS):
            pass
        words.close()


def coder(stage: Stage) -> None:
    """Works through another protocol."""
    stage.say("coder", "reviews code")
    agent = stage.meter.agent("coder", user="carol", team="platform", repository="billing")
    with closing(anthropic_chat(stage.meter, stage.provider)) as chat, agent:
        for _ in range(3):
            chat.ask(_CODE, model="claude-sonnet-5", cap=500)


def researcher(stage: Stage) -> None:
    """Asks three things at once, then delegates deeper and deeper."""
    stage.say("researcher", "asks three things at once; its helper asks a researcher, which has a helper")

    async def asks() -> None:
        async with async_chat(stage.meter, stage.provider) as chat:
            with stage.meter.agent("researcher", user="dave", team="platform"):
                topics = ("tea", "coffee", "cocoa")
                questions = [
                    chat.ask(f"What is known of {topic}? " * 15, model="gpt-6.1-terra", cap=300) for topic in topics
                ]
                await asyncio.gather(*questions)

    def delegate(chat: Chat, depth: int) -> None:
        if depth > PATIENCE:
            raise NotStopped("researcher")
        with stage.meter.agent("helper" if depth % 2 else "researcher", user="dave", team="platform"):
            chat.ask("Go on with what was found. " * 15, model="gpt-6.1-terra", cap=300)
            delegate(chat, depth + 1)

    asyncio.run(asks())
    with closing(openai_chat(stage.meter, stage.provider)) as chat:
        try:
            delegate(chat, 0)
        except Refused as refusal:
            stage.refused(refusal.agent or "researcher", refusal)


def nobody(stage: Stage) -> None:
    """A script that says of nobody who it works for."""
    stage.say("(nobody)", "a nightly script that nobody put under an agent")
    with closing(plain_chat(stage.meter, stage.provider)) as chat:
        chat.ask("Anything new? " * 30, model="gpt-6-luna", cap=60)


CAST = (mail_triage, chat_bots, summariser, coder, researcher, nobody)


def _until_refused(stage: Stage, agent: str, chat: Chat, prompt: str, model: str, *, cap: int) -> None:
    for _ in range(PATIENCE):
        try:
            chat.ask(prompt, model=model, cap=cap)
        except Refused as refusal:
            return stage.refused(agent, refusal)
    raise NotStopped(agent)
