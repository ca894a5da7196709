"""An agent that triages the same mail for ever. The default limits stop it; nothing here asks for them."""

import itertools
import json
from typing import Any

from openai import OpenAI

import tokenmeter
from tokenmeter.testing import Reply, Request, ScriptedProvider  # stands in for a provider: no key, no network

MAILS = [{"id": 1, "subject": "Re: Re: the plants on the fourth floor"}, {"id": 2, "subject": "Lunch?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "list_mail", "parameters": {"type": "object"}}}]


def model(request: Request) -> Reply:
    """It looks into the mail, whatever it found there before."""
    return Reply("", tool_calls=[{"name": "list_mail", "arguments": {"folder": "inbox"}}], output_tokens=20)


with ScriptedProvider(model) as provider, tokenmeter.Meter() as meter:
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))
    messages: list[Any] = [{"role": "user", "content": "Keep my mail in order."}]
    with meter.agent("mail-triage", user="alice", team="support"):
        try:
            for _ in itertools.count():
                answer = client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=TOOLS)
                message = answer.choices[0].message
                messages.append(message.model_dump(exclude_none=True))
                for call in message.tool_calls or []:
                    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(MAILS)})
        except tokenmeter.LoopDetected as loop:
            print(f"stopped by {loop.guard} after {provider.received} calls: {loop.evidence['what']}")
            print(loop.remedy)
    client.close()
