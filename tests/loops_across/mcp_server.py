"""An MCP server of one tool, over stdio: an agent that goes on with the run of whoever calls it."""

from __future__ import annotations

import os

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from openai import AsyncOpenAI

import tokenmeter
from tokenmeter import LoopPolicy, Meter, Refused

KEYS = bytes.fromhex(os.environ["LINEAGE_KEY"]) if "LINEAGE_KEY" in os.environ else None

policy = LoopPolicy(max_depth=None, max_visits=None, max_calls_per_run=int(os.environ["MOST_CALLS"]))
meter = Meter(store=os.environ["STORE"], loops=policy)
client = meter.wrap(AsyncOpenAI(base_url=os.environ["PROVIDER"], api_key="none", max_retries=0))
server = MCPServer("helper")


@server.tool()
async def help_me(question: str, ctx: Context) -> str:
    """Ask the model."""
    async with tokenmeter.extract(ctx.request_context.meta or {}, keys=KEYS), meter.agent("helper") as scope:
        try:
            await client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": question}])
        except Refused as refusal:
            return f"refused {refusal.reason}"
        return f"{scope.root} {scope.run} {scope.depth} {' '.join(scope.path)}"


if __name__ == "__main__":
    server.run("stdio")
