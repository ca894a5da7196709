"""Streams: metered when they are read to their end, and when they are not."""

from openai import OpenAI

import tokenmeter
from tokenmeter.testing import Reply, ScriptedProvider

with (
    ScriptedProvider(Reply("One word after the other comes over the wire.", input_tokens=30)) as provider,
    tokenmeter.Meter() as meter,
):
    # For the real thing leave base_url and api_key out.
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))

    with meter.agent("reader", user="bob"):
        stream = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "Tell me."}], stream=True
        )
        for chunk in stream:  # no include_usage here: it is asked for, and its extra chunk is hidden
            print(chunk.choices[0].delta.content or "", end="")
    print()

    with meter.agent("browser", user="bob"):
        stream = client.chat.completions.create(
            model="gpt-5-mini", messages=[{"role": "user", "content": "Tell me."}], stream=True
        )
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break  # seen enough
        stream.close()

    read, left = meter.spend(agent="reader"), meter.spend(agent="browser")
    print(f"read to its end: {read.input_tokens} tokens in, {read.output_tokens} out, {read.estimated_calls} estimated")
    print(f"abandoned: {left.calls} call charged, {left.estimated_calls} estimated: ${left.estimated_usd:f}")
