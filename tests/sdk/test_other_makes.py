"""SDKs and frameworks of other makes, unchanged, with `instrument()`: counted to the token, refused before they send.

Each is skipped where it is not installed; ``pip install --group others`` has them all.
"""

from __future__ import annotations

import gc
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sdk.helpers import each, of, said
from tests.sdk.other_makes import INPUT, OUTPUT, TEXT, serving
from tokenmeter import Budget, BudgetExceeded, Meter

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

MESSAGES: Any = said("Say hello to the world")


def sdk(name: str) -> Any:
    """A module, or the test is skipped."""
    return pytest.importorskip(name, exc_type=ImportError)


async def _openai_like(client: Any) -> int:
    create = client.chat.completions.create
    answer = await of(create(model="m", messages=MESSAGES))
    assert answer.choices[0].message.content == TEXT
    await each(await of(create(model="m", messages=MESSAGES, stream=True)))
    return 2


async def groq(url: str, is_async: bool) -> int:
    made = sdk("groq")
    return await _openai_like((made.AsyncGroq if is_async else made.Groq)(base_url=url, api_key="none"))


async def together(url: str, is_async: bool) -> int:
    made = sdk("together")
    return await _openai_like((made.AsyncTogether if is_async else made.Together)(base_url=url, api_key="none"))


async def cerebras(url: str, is_async: bool) -> int:
    made = sdk("cerebras.cloud.sdk")
    kind = made.AsyncCerebras if is_async else made.Cerebras
    return await _openai_like(kind(base_url=url, api_key="none", warm_tcp_connection=False))


async def fireworks(url: str, is_async: bool) -> int:
    made = sdk("fireworks")
    return await _openai_like((made.AsyncFireworks if is_async else made.Fireworks)(base_url=url, api_key="none"))


async def mistral(url: str, is_async: bool) -> int:
    made = sdk("mistralai")
    kind = made.Mistral if hasattr(made, "Mistral") else importlib.import_module("mistralai.client").Mistral
    asks = kind(api_key="none", server_url=url).chat
    complete, stream = (asks.complete_async, asks.stream_async) if is_async else (asks.complete, asks.stream)
    assert (await of(complete(model="m", messages=MESSAGES))).choices[0].message.content == TEXT
    await each(await of(stream(model="m", messages=MESSAGES)))
    return 2


async def cohere(url: str, is_async: bool) -> int:
    made = sdk("cohere")
    client = (made.AsyncClientV2 if is_async else made.ClientV2)(api_key="none", base_url=url)
    assert (await of(client.chat(model="m", messages=MESSAGES))).message.content[0].text == TEXT
    await each(client.chat_stream(model="m", messages=MESSAGES))
    return 2


async def ollama(url: str, is_async: bool) -> int:
    made = sdk("ollama")
    client = (made.AsyncClient if is_async else made.Client)(host=url)
    assert (await of(client.chat(model="m", messages=MESSAGES))).message.content == TEXT
    await each(await of(client.chat(model="m", messages=MESSAGES, stream=True)))
    return 2


async def google(url: str, is_async: bool) -> int:
    made, types, httpx = sdk("google.genai"), sdk("google.genai.types"), sdk("httpx")
    options = types.HttpOptions(base_url=url, httpx_async_client=httpx.AsyncClient())
    client = made.Client(api_key="none", http_options=options)
    asks = client.aio.models if is_async else client.models
    assert (await of(asks.generate_content(model="m", contents="hi"))).text == TEXT
    assert [x.text for x in await each(await of(asks.generate_content_stream(model="m", contents="hi")))] == [TEXT]
    return 2


async def google_by_aiohttp(url: str, is_async: bool) -> int:
    if not is_async:
        pytest.skip("aiohttp is async")
    made, types = sdk("google.genai"), sdk("google.genai.types")
    sdk("aiohttp")
    asks = made.Client(api_key="none", http_options=types.HttpOptions(base_url=url)).aio.models
    assert (await asks.generate_content(model="m", contents="hi")).text == TEXT
    assert [x.text for x in await each(await asks.generate_content_stream(model="m", contents="hi"))] == [TEXT]
    return 2


async def bedrock(url: str, is_async: bool) -> int:
    where = {"region_name": "us-east-1", "endpoint_url": url, "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    asked: Any = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    if is_async:
        made = sdk("aiobotocore.session")
        async with made.get_session().create_client("bedrock-runtime", **where) as client:
            answer = await client.converse(**asked)
            events = [event async for event in (await client.converse_stream(**asked))["stream"]]
    else:
        client = sdk("boto3").client("bedrock-runtime", **where)
        answer = client.converse(**asked)
        events = list(client.converse_stream(**asked)["stream"])
    assert answer["output"]["message"]["content"] == [{"text": TEXT}]
    assert [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event] == [TEXT]
    return 2


async def hugging_face(url: str, is_async: bool) -> int:
    made = sdk("huggingface_hub")
    client = (made.AsyncInferenceClient if is_async else made.InferenceClient)(base_url=url, api_key="none")
    await of(client.chat_completion(MESSAGES, model="m"))
    await each(await of(client.chat_completion(MESSAGES, model="m", stream=True)))
    return 2


async def litellm(url: str, is_async: bool) -> int:
    made = sdk("litellm")
    ask = made.acompletion if is_async else made.completion
    for model in ("openai/gpt-5-mini", "anthropic/claude-haiku-4-5"):
        given = {"model": model, "messages": MESSAGES, "api_base": url, "api_key": "none"}
        assert (await of(ask(**given))).choices[0].message.content == TEXT
        stream = await of(ask(**given, stream=True))  # it claims to be of both kinds
        assert [part async for part in stream] if is_async else list(stream)
    return 4


async def langchain(url: str, is_async: bool) -> int:
    openai, anthropic = sdk("langchain_openai"), sdk("langchain_anthropic")
    models = [
        openai.ChatOpenAI(model="gpt-5-mini", base_url=url, api_key="none"),
        openai.ChatOpenAI(model="gpt-5-mini", base_url=url, api_key="none", use_responses_api=True),
        anthropic.ChatAnthropic(model="claude-haiku-4-5", base_url=url, api_key="none"),
    ]
    for model in models:
        await of((model.ainvoke if is_async else model.invoke)("hi"))
        await each((model.astream if is_async else model.stream)("hi"))
        await of((model.abatch if is_async else model.batch)(["a", "b"]))  # in threads where it is sync
    return 4 * len(models)


async def pydantic_ai(url: str, is_async: bool) -> int:
    made = sdk("pydantic_ai")
    if not is_async:
        pytest.skip("it is async at heart")
    model, provider = sdk("pydantic_ai.models.openai"), sdk("pydantic_ai.providers.openai")
    agent = made.Agent(
        model.OpenAIChatModel("gpt-5-mini", provider=provider.OpenAIProvider(base_url=url, api_key="none"))
    )
    assert (await agent.run("hi")).output == TEXT
    async with agent.run_stream("hi") as stream:
        assert await stream.get_output() == TEXT
    return 2


async def openai_agents(url: str, is_async: bool) -> int:
    made, openai = sdk("agents"), sdk("openai")
    if not is_async:
        pytest.skip("it is async at heart")
    made.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    for kind in (made.OpenAIResponsesModel, made.OpenAIChatCompletionsModel):
        agent = made.Agent(name="a", instructions="Greet.", model=kind("gpt-5-mini", client))
        assert (await made.Runner.run(agent, "hi")).final_output == TEXT
        await each(made.Runner.run_streamed(agent, "hi").stream_events())
    return 4


async def dspy(url: str, is_async: bool) -> int:
    made = sdk("dspy")
    model = made.LM("openai/gpt-5-mini", api_base=url, api_key="none", cache=False, num_retries=3)
    asked = model.acall("hi") if is_async else model("hi")
    assert await of(asked) == [TEXT]
    return 1


USES: list[Callable[[str, bool], Any]] = [
    groq,
    together,
    cerebras,
    fireworks,
    mistral,
    cohere,
    ollama,
    google,
    google_by_aiohttp,
    bedrock,
    hugging_face,
    litellm,
    langchain,
    pydantic_ai,
    openai_agents,
    dspy,
]
MASKS = {litellm, dspy}
"""These put an error of their own around whatever is raised below; the refusal is its cause or its context."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def what_is_left_open() -> Iterator[None]:
    """Not all of them close what they opened."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("use", USES)
async def test_counted_to_the_token(use: Any, is_async: bool, server: tuple[str, list[str]]) -> None:
    url, arrived = server
    with Meter(unpriced="allow") as meter:
        meter.instrument()
        with meter.agent("a", user="u"):
            calls = await use(url, is_async)
        spend = meter.spend(agent="a", user="u")
    assert len(arrived) == calls
    assert (spend.calls, spend.input_tokens, spend.output_tokens) == (calls, calls * INPUT, calls * OUTPUT)
    assert spend.estimated_calls == 0


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("use", USES)
async def test_refused_before_it_is_sent(use: Any, is_async: bool, server: tuple[str, list[str]]) -> None:
    url, arrived = server
    with Meter([Budget("1 token", per="total")], unpriced="allow") as meter:
        meter.instrument()
        with pytest.raises(Exception) as caught:  # noqa: PT011  each make has its own
            await use(url, is_async)
        assert arrived == []
        assert any(isinstance(error, BudgetExceeded) for error in around(caught.value))
        if use not in MASKS:
            assert isinstance(caught.value, BudgetExceeded)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("model", ["openai/gpt-5-mini", "anthropic/claude-haiku-4-5"])
async def test_a_router_does_not_try_a_refused_call_again(
    model: str, is_async: bool, server: tuple[str, list[str]]
) -> None:
    url, arrived = server
    given = {"model": model, "api_base": url, "api_key": "none", "max_retries": 0}
    router = sdk("litellm").Router([{"model_name": "m", "litellm_params": given}], num_retries=3)
    with Meter([Budget("1 token", per="total")], unpriced="allow") as meter:
        meter.instrument()
        with pytest.raises(Exception, match="1 token in total") as caught:
            await of((router.acompletion if is_async else router.completion)(model="m", messages=MESSAGES))
        assert any(isinstance(error, BudgetExceeded) for error in around(caught.value))
        assert meter.spend().refused == 1
    assert arrived == []


def around(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    known: list[BaseException] = []
    while error is not None and error not in known:
        known.append(error)
        yield error
        error = error.__cause__ or error.__context__


async def test_agents_that_keep_a_connection_open() -> None:
    """OpenAI Agents over a websocket: its own connections, turn by turn, refused like any other call."""
    pytest.importorskip("websockets", reason="websockets is not installed")
    from tests.clients.responder import INPUT, OUTPUT, TEXT, Responder, spoken

    made, openai = sdk("agents"), sdk("openai")
    made.set_tracing_disabled(True)
    responder = Responder(spoken)
    with Meter([Budget("3 calls", per="total")]) as meter:
        meter.instrument()
        client = openai.AsyncOpenAI(base_url=responder.url, api_key="none")
        model = made.OpenAIResponsesWSModel("gpt-5-mini", client)
        agent = made.Agent(name="a", instructions="Greet.", model=model)
        with meter.agent("greeter"):
            assert (await made.Runner.run(agent, "hi")).final_output == TEXT
            await each(made.Runner.run_streamed(agent, "hi").stream_events())
            await made.Runner.run(agent, "hi")
            with pytest.raises(BudgetExceeded):
                await made.Runner.run(agent, "hi")
        await model.close()
        spend = meter.spend(agent="greeter")
    assert (spend.calls, spend.refused, len(responder.arrived)) == (3, 1, 3)
    assert (spend.input_tokens, spend.output_tokens, spend.estimated_calls) == (3 * INPUT, 3 * OUTPUT, 0)
    responder.close()
