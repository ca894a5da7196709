"""Agents that work at once: asyncio tasks and plain threads keep their attribution, nesting is counted."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from openai import AsyncOpenAI, OpenAI

import tokenmeter
from tokenmeter.testing import Reply, ScriptedProvider

MODEL = "gpt-5-mini"


async def main() -> None:
    with (
        ScriptedProvider(Reply("Noted.", input_tokens=100, output_tokens=20)) as provider,
        tokenmeter.Meter(loops=tokenmeter.LoopPolicy(max_depth=2)) as meter,
    ):
        meter.instrument()  # every client of the process, and attribution into plain threads
        # For the real thing leave base_url and api_key out.
        blocking = OpenAI(base_url=provider.openai_url, api_key="none")
        async with AsyncOpenAI(base_url=provider.openai_url, api_key="none") as client:

            @meter.agent("worker")
            async def work(topic: str) -> None:
                await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": topic}])

            def ask(topic: str) -> None:
                blocking.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": topic}])

            async with meter.agent("planner", user="dave", team="research"):
                await asyncio.gather(*(work(topic) for topic in ("tea", "coffee", "cocoa")))
                with ThreadPoolExecutor(2) as threads:
                    list(threads.map(ask, ["milk", "sugar"]))
                try:
                    with meter.agent("helper"):
                        await work("too deep")
                except tokenmeter.DepthExceeded as refusal:
                    print(f"refused at depth {refusal.depth}: {' → '.join(refusal.path)}")

        for agent in ("planner", "worker"):
            spend = meter.spend(agent=agent, user="dave", team="research")
            print(f"{agent}: {spend.calls} calls, ${spend.usd:f}")
        print(f"unattributed: {meter.unattributed().calls} calls")
        blocking.close()


asyncio.run(main())
