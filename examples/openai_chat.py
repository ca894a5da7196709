"""An unchanged OpenAI client, metered: who spent what, to the token."""

from openai import OpenAI

import tokenmeter
from tokenmeter.testing import Reply, ScriptedProvider

with (
    ScriptedProvider(Reply("Forward it to the landlord.", input_tokens=420, output_tokens=60)) as provider,
    tokenmeter.Meter() as meter,
):
    # For the real thing leave base_url and api_key out: the SDK reads OPENAI_API_KEY.
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))

    with meter.agent("mail-triage", user="alice", team="support"):
        answer = client.chat.completions.create(
            model="gpt-5-mini",
            messages=[{"role": "user", "content": "What shall I do with this mail about the plants?"}],
        )
    client.responses.create(model="gpt-5-mini", input="A call that nobody put under an agent.")

    spend = meter.spend(agent="mail-triage")
    print(answer.choices[0].message.content)
    print(f"mail-triage: {spend.calls} call, {spend.input_tokens} tokens in, {spend.output_tokens} out, ${spend.usd:f}")
    print(f"unattributed: {meter.unattributed().calls} call, ${meter.unattributed().usd:f}")
