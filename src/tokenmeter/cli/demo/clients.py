"""The clients of the demonstration's agents: the real SDKs where they are installed, else real HTTP clients."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any

from tokenmeter import Meter
from tokenmeter.cli.trouble import Trouble
from tokenmeter.testing import ScriptedProvider

KEY = "no-key-is-needed"


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even what it is a part of
        return False


def missing_extra(package: str, extra: str, why: str) -> Trouble:
    """What to say where an optional package isn't installed."""
    return Trouble(
        f"{package} isn't installed, and {why}. Install the extra: "
        f"pip install 'tokenmeter-sdk[{extra}]', or in a checkout: pip install -e '.[{extra}]'"
    )


def http_library() -> Any:
    """``httpx``, or else ``httpx2``. Raises `Trouble`."""
    for name in ("httpx", "httpx2"):
        if installed(name):
            return importlib.import_module(name)
    raise missing_extra("httpx", "demo", "the agents call through it")


def openai_chat(meter: Meter, provider: ScriptedProvider) -> Chat:
    """A metered client of the OpenAI protocol."""
    return OpenAISdk(meter, provider.openai_url) if installed("openai") else plain_chat(meter, provider)


def plain_chat(meter: Meter, provider: ScriptedProvider) -> PlainOpenAI:
    """A metered client of the OpenAI protocol, without an SDK."""
    return PlainOpenAI(meter, provider.openai_url)


def anthropic_chat(meter: Meter, provider: ScriptedProvider) -> AnthropicSdk | PlainAnthropic:
    """A metered client of the Anthropic protocol."""
    kind = AnthropicSdk if installed("anthropic") else PlainAnthropic
    return kind(meter, provider.anthropic_url)


@asynccontextmanager
async def async_chat(meter: Meter, provider: ScriptedProvider) -> AsyncIterator[AsyncOpenAISdk | AsyncPlain]:
    """A metered async client of the OpenAI protocol."""
    url = provider.openai_url
    if installed("openai"):
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=url, api_key=KEY) as sdk:
            yield AsyncOpenAISdk(meter.wrap(sdk))
    else:
        async with http_library().AsyncClient(base_url=url) as client:
            yield AsyncPlain(meter.wrap(client))


class OpenAISdk:
    """OpenAI's SDK."""

    def __init__(self, meter: Meter, url: str) -> None:
        from openai import OpenAI

        self._sdk = meter.wrap(OpenAI(base_url=url, api_key=KEY))

    def close(self) -> None:
        """Close the client."""
        self._sdk.close()

    def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        answer = self._sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], max_completion_tokens=cap
        )
        return answer.choices[0].message.content or ""

    def words(self, prompt: str, *, model: str, cap: int) -> Generator[str, None, None]:
        """The answer as it comes."""
        with self._sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], max_completion_tokens=cap, stream=True
        ) as stream:
            for chunk in stream:
                if word := chunk.choices[0].delta.content:
                    yield word


class PlainOpenAI:
    """The OpenAI protocol over a bare HTTP client."""

    def __init__(self, meter: Meter, url: str) -> None:
        self._client = meter.wrap(http_library().Client(base_url=url))

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        answer = self._client.post("/chat/completions", json=_openai(prompt, model, cap))
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def words(self, prompt: str, *, model: str, cap: int) -> Generator[str, None, None]:
        """The answer as it comes."""
        body = {**_openai(prompt, model, cap), "stream": True}
        with self._client.stream("POST", "/chat/completions", json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {") and (word := json.loads(line[6:])["choices"][0]["delta"].get("content")):
                    yield word


Chat = OpenAISdk | PlainOpenAI


class AnthropicSdk:
    """Anthropic's SDK."""

    def __init__(self, meter: Meter, url: str) -> None:
        from anthropic import Anthropic

        self._sdk = meter.wrap(Anthropic(base_url=url, api_key=KEY))

    def close(self) -> None:
        """Close the client."""
        self._sdk.close()

    def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        answer = self._sdk.messages.create(model=model, max_tokens=cap, messages=[{"role": "user", "content": prompt}])
        return "".join(block.text for block in answer.content if block.type == "text")


class PlainAnthropic:
    """The Anthropic protocol over a bare HTTP client."""

    def __init__(self, meter: Meter, url: str) -> None:
        self._client = meter.wrap(http_library().Client(base_url=url))

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        body = {"model": model, "max_tokens": cap, "messages": [{"role": "user", "content": prompt}]}
        answer = self._client.post("/v1/messages", json=body)
        answer.raise_for_status()
        return "".join(block["text"] for block in answer.json()["content"])


class AsyncOpenAISdk:
    """OpenAI's SDK under asyncio."""

    def __init__(self, sdk: Any) -> None:
        self._sdk = sdk

    async def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        answer = await self._sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], max_completion_tokens=cap
        )
        return answer.choices[0].message.content or ""


class AsyncPlain:
    """The OpenAI protocol over a bare async HTTP client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def ask(self, prompt: str, *, model: str, cap: int) -> str:
        """The answer."""
        answer = await self._client.post("/chat/completions", json=_openai(prompt, model, cap))
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])


def _openai(prompt: str, model: str, cap: int) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_completion_tokens": cap}
