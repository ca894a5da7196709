"""Anthropic's SDK: cached input is priced as cached, and a decorator says whose calls these are."""

from anthropic import Anthropic

import tokenmeter
from tokenmeter.testing import Reply, ScriptedProvider

REPLY = Reply("def total(rows): ...", input_tokens=2_000, cache_read_tokens=1_800, output_tokens=150)

with ScriptedProvider(REPLY) as provider, tokenmeter.Meter() as meter:
    # For the real thing leave base_url and api_key out: the SDK reads ANTHROPIC_API_KEY.
    client = meter.wrap(Anthropic(base_url=provider.anthropic_url, api_key="none"))

    @meter.agent("coder", user="carol", team="platform", repository="billing")
    def review(code: str) -> str:
        message = client.messages.create(
            model="claude-sonnet-5", max_tokens=400, messages=[{"role": "user", "content": f"Review:\n{code}"}]
        )
        return "".join(block.text for block in message.content if block.type == "text")

    print(review("def total(rows): return sum(rows)"))

    spend = meter.spend(agent="coder")
    print(f"{spend.input_tokens} tokens in, {spend.cache_read_tokens} of them from the cache, ${spend.usd:f}")
    print(f"the repository 'billing': ${meter.spend(tags={'repository': 'billing'}).usd:f}")
