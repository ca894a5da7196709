"""Two agents that thank each other for ever. The default limits stop them; nothing here asks for them."""

import itertools
from typing import Any

from openai import OpenAI

import tokenmeter
from tokenmeter.testing import Reply, Request, ScriptedProvider  # stands in for a provider: no key, no network

PHRASES = itertools.cycle(["Thank you so much!", "You're welcome, happy to help!"])


def model(request: Request) -> Reply:
    """Politeness without end."""
    return Reply(next(PHRASES), output_tokens=8)


with ScriptedProvider(model) as provider, tokenmeter.Meter() as meter:
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))
    said: list[str] = ["The report is ready."]

    def speak(name: str, offset: int) -> None:
        """One of the two says something; what it said itself is the assistant's, the rest the user's."""
        with meter.agent(name, team="research"):
            roles = ["assistant" if (number + offset) % 2 else "user" for number in range(len(said))]
            turns: Any = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
            answer = client.chat.completions.create(model="gpt-5-mini", messages=turns)
        said.append(answer.choices[0].message.content or "")

    with meter.agent("office"):
        try:
            for number in itertools.count():
                speak(("editor", "writer")[number % 2], offset=number % 2)
        except tokenmeter.LoopDetected as loop:
            print(f"stopped by {loop.guard} after {provider.received} calls: {loop.evidence['what']}")
            print(f"the run cost ${meter.spend().usd}")
    client.close()
