"""What requests ask for, protocol by protocol."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from tokenmeter import wire
from tokenmeter.pricing import InputBound
from tokenmeter.wire import Ask, asks
from tokenmeter.wire.fields import Fields

OPENAI = ("api.openai.com", "/v1/chat/completions")
RESPONSES = ("api.openai.com", "/v1/responses")
MESSAGES = ("api.anthropic.com", "/v1/messages")
GEMINI = ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro:generateContent")
DECISIONS = ("api.openai.com", "/v1/decisions")
INTERACTIONS = ("generativelanguage.googleapis.com", "/v1beta/interactions")
CONVERSATIONS = ("api.mistral.ai", "/v1/conversations")
WATSONX = "us-south.ml.cloud.ibm.com"
DASHSCOPE = ("dashscope.aliyuncs.com", "/api/v1/services/aigc/text-generation/generation")
WORKERS = ("api.cloudflare.com", "/client/v4/accounts/a/ai/run/@cf/meta/llama-3")
CONVERSE = ("bedrock-runtime.us-east-1.amazonaws.com", "/model/us.amazon.nova-lite-v1%3A0/converse")
EVERY: tuple[tuple[str, str], ...]
EVERY = (OPENAI, RESPONSES, MESSAGES, GEMINI, CONVERSE, INTERACTIONS, CONVERSATIONS, WORKERS)
EVERY += (
    (WATSONX, "/ml/v1/text/generation"),
    (WATSONX, "/ml/v1/text/embeddings"),
    ("api.anthropic.com", "/v1/complete"),
)
EVERY += (DECISIONS,)
EVERY += tuple(("localhost", path) for path in ("/api/chat", "/completion", "/generate"))
PIXEL = base64.b64encode(b"\x89PNG" * 30).decode()


def ask(where: tuple[str, str], body: Any, content_type: str = "application/json") -> Ask:
    route = wire.recognise("POST", *where)
    assert route is not None
    return wire.read_request(route, body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)


def invoke(model: str) -> tuple[str, str]:
    return "bedrock-runtime.us-east-1.amazonaws.com", f"/model/{model}/invoke"


def test_a_plain_chat() -> None:
    body = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": "Grüße"}], "n": 3}).encode()
    found = ask(OPENAI, body)
    assert (found.model, found.stream, found.choices, found.max_output_tokens) == ("gpt-5", False, 3, None)
    assert (found.text, found.text_bytes) == (body, len(body))
    assert found.can_cap
    assert found.readable
    assert not any((found.tools, found.server_tools, found.server_state, found.can_ask_usage))


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 5},
        {"max_tokens": 9, "max_completion_tokens": 5, "stream": True},
        {"max_completion_tokens": -1, "temperature": 1, "top_p": 0.5, "seed": 1, "reasoning_effort": "low"},
        {"messages": [{"role": "system", "content": None}, {"role": "user", "content": "[1]", "name": "n"}]},
    ],
)
def test_the_quick_look_at_plain_text_sees_what_the_whole_one_sees(fields: dict[str, Any]) -> None:
    body = json.dumps({**CHAT, **fields}).encode()
    route = wire.recognise("POST", *OPENAI)
    assert route is not None
    quick = ask(OPENAI, body)
    assert quick.text_only
    assert quick == replace(asks._ask(Fields(route, body)), text_only=True)
    assert InputBound(exact=False).bound(quick, route) == InputBound(exact=False).bound(
        replace(quick, text_only=False), route
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"n": 2},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://h/a"}}]}]},
        {"response_format": {"type": "json_object"}},
        {"web_search_options": {}},
        {"model": "gpt-4o-search-preview"},
        {"something": "new"},
    ],
)
def test_only_plain_text_is_called_so(fields: dict[str, Any]) -> None:
    assert not ask(OPENAI, {**CHAT, **fields}).text_only


@pytest.mark.parametrize(
    ("fields", "can_ask"),
    [
        ({"stream": True}, True),
        ({"stream": True, "stream_options": None}, True),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": True, "stream_options": {"include_usage": False}}, False),
        ({"stream": False}, False),
        ({}, False),
    ],
)
def test_usage_is_asked_for_only_where_the_caller_said_nothing(fields: dict[str, Any], can_ask: bool) -> None:
    assert ask(OPENAI, {**CHAT, **fields}).can_ask_usage is can_ask
    assert not ask(("api.mistral.ai", "/v1/chat/completions"), {**CHAT, **fields}).can_ask_usage
    assert not ask(RESPONSES, {"model": "m", "input": "hi", **fields}).can_ask_usage


@pytest.mark.parametrize(
    ("where", "body", "cap"),
    [
        (OPENAI, {**CHAT, "max_tokens": 5}, 5),
        (OPENAI, {**CHAT, "max_completion_tokens": 6, "max_tokens": None}, 6),
        (OPENAI, {**CHAT, "max_tokens": True}, None),
        (OPENAI, {**CHAT, "max_tokens": -1}, None),
        (OPENAI, {**CHAT, "max_tokens": "5"}, None),
        (RESPONSES, {"model": "m", "input": "x", "max_output_tokens": 7}, 7),
        (MESSAGES, {**CHAT, "max_tokens": 8}, 8),
        (GEMINI, {"contents": [], "generationConfig": {"maxOutputTokens": 9}}, 9),
        (CONVERSE, {"messages": [], "inferenceConfig": {"maxTokens": 10}}, 10),
        (invoke("anthropic.claude-3"), {"anthropic_version": "x", "max_tokens": 11, "messages": []}, 11),
        (invoke("meta.llama3"), {"prompt": "x", "max_gen_len": 12}, 12),
        (invoke("amazon.titan-text"), {"inputText": "x", "textGenerationConfig": {"maxTokenCount": 13}}, 13),
        (invoke("amazon.nova-pro"), {"messages": [], "inferenceConfig": {"max_new_tokens": 14}}, 14),
        (invoke("ai21.j2"), {"prompt": "x", "maxTokens": 15}, 15),
        (invoke("anthropic.claude-v2"), {"prompt": "x", "max_tokens_to_sample": 16}, 16),
        (("api.cohere.com", "/v2/chat"), {**CHAT, "max_tokens": 17}, 17),
        (("localhost", "/api/chat"), {**CHAT, "options": {"num_predict": 18}}, 18),
        (("localhost", "/api/chat"), {**CHAT, "options": {"num_predict": -1}}, None),
        (INTERACTIONS, {"model": "m", "input": "x", "generation_config": {"max_output_tokens": 19}}, 19),
        (CONVERSATIONS, {"model": "m", "inputs": "x", "completion_args": {"max_tokens": 20}}, 20),
        ((CONVERSATIONS[0], "/v1/ocr"), {"model": "m", "document": {"type": "document_url"}}, 0),
        ((WATSONX, "/ml/v1/text/chat"), {"model_id": "m", "messages": [], "max_tokens": 21}, 21),
        ((WATSONX, "/ml/v1/text/generation"), {"model_id": "m", "parameters": {"max_new_tokens": 22}}, 22),
        ((WATSONX, "/ml/v1/text/embeddings"), {"model_id": "m", "inputs": ["x"]}, 0),
        (DASHSCOPE, {"model": "m", "input": {"prompt": "x"}, "parameters": {"max_tokens": 27}}, 27),
        (DASHSCOPE, {"model": "m", "input": {"prompt": "x"}, "parameters": 7}, None),
        (("localhost", "/completion"), {"prompt": "x", "n_predict": 23}, 23),
        (("localhost", "/completion"), {"prompt": "x", "n_predict": -1}, None),
        (("localhost", "/generate"), {"inputs": "x", "parameters": {"max_new_tokens": 24}}, 24),
        (("api.anthropic.com", "/v1/complete"), {"prompt": "x", "max_tokens_to_sample": 25}, 25),
        (WORKERS, {"messages": [], "max_tokens": 26}, 26),
        ((WORKERS[0], "/client/v4/accounts/a/ai/run/@cf/baai/bge-m3"), {"text": "x"}, 0),
        (("api.openai.com", "/v1/embeddings"), {"model": "m", "input": "x"}, 0),
        (("api.cohere.com", "/v2/rerank"), {"model": "m", "query": "x", "documents": []}, 0),
        (invoke("amazon.titan-embed-text-v2"), {"inputText": "x"}, 0),
        (("generativelanguage.googleapis.com", "/v1beta/models/e:batchEmbedContents"), {"requests": []}, 0),
    ],
)
def test_the_output_cap(where: tuple[str, str], body: dict[str, Any], cap: int | None) -> None:
    assert ask(where, body).max_output_tokens == cap


@pytest.mark.parametrize(
    ("where", "body", "choices"),
    [
        (("api.openai.com", "/v1/completions"), {"prompt": ["a", "b"], "n": 2}, 4),
        (("api.openai.com", "/v1/completions"), {"prompt": [1, 2, 3], "n": 2}, 2),
        (("localhost", "/completion"), {"prompt": ["a", "b"]}, 2),
        (("localhost", "/completion"), {"prompt": [12, "b"]}, 1),
        (("api.openai.com", "/v1/completions"), {"prompt": [[1], [2]], "best_of": 5, "n": 1}, 10),
        (GEMINI, {"contents": [], "generationConfig": {"candidateCount": 3}}, 3),
        (DASHSCOPE, {"model": "m", "parameters": {"n": 2}}, 2),
        (("api.openai.com", "/v1/images/generations"), {"prompt": "x", "n": 4}, 4),
    ],
)
def test_choices(where: tuple[str, str], body: dict[str, Any], choices: int) -> None:
    assert ask(where, body).choices == choices


def parts(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "look"}, *content]}]


def source(kind: str, **fields: str) -> dict[str, Any]:
    return {"type": kind, "source": fields}


DATA_URL = f"data:image/png;base64,{PIXEL}"
COHERE, OLLAMA = ("api.cohere.com", "/v2/chat"), ("localhost", "/api/chat")
LENGTH = len(PIXEL)
S3 = {"s3Location": {"uri": "s3://x"}}


def gemini(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"parts": [part]}]


MEDIA: list[tuple[tuple[str, str], dict[str, Any], tuple[int, int, int], int]] = [
    # where, body, (images, media_bytes, remote_media), bytes of the payload
    (OPENAI, {"messages": parts({"type": "image_url", "image_url": {"url": DATA_URL}})}, (1, 0, 0), LENGTH),
    (OPENAI, {"messages": parts({"type": "image_url", "image_url": {"url": "https://x/y.png"}})}, (1, 0, 0), 0),
    (OPENAI, {"messages": parts({"type": "input_audio", "input_audio": {"data": PIXEL}})}, (0, 120, 0), LENGTH),
    (OPENAI, {"messages": parts({"type": "file", "file": {"file_id": "file-1"}})}, (0, 0, 1), 0),
    (OPENAI, {"messages": parts({"type": "file", "file": {"file_data": PIXEL}})}, (0, 120, 0), LENGTH),
    (RESPONSES, {"input": parts({"type": "input_image", "image_url": "https://x"})}, (1, 0, 0), 0),
    (RESPONSES, {"input": parts({"type": "input_file", "file_url": "https://x"})}, (0, 0, 1), 0),
    (RESPONSES, {"input": parts({"type": "input_file", "file_data": PIXEL})}, (0, 120, 0), LENGTH),
    (MESSAGES, {"messages": parts(source("image", type="base64", data=PIXEL))}, (1, 0, 0), LENGTH),
    (MESSAGES, {"messages": parts(source("image", type="url", url="https://x"))}, (1, 0, 0), 0),
    (MESSAGES, {"messages": parts(source("document", type="base64", data=PIXEL))}, (0, 120, 0), LENGTH),
    (MESSAGES, {"messages": parts(source("document", type="file", file_id="f"))}, (0, 0, 1), 0),
    (MESSAGES, {"messages": parts(source("document", type="text", data="plain"))}, (0, 0, 0), 0),
    (
        MESSAGES,
        {"messages": parts({"type": "tool_result", "content": [source("image", type="base64", data=PIXEL)]})},
        (1, 0, 0),
        LENGTH,
    ),
    (GEMINI, {"contents": gemini({"inlineData": {"mimeType": "image/png", "data": PIXEL}})}, (1, 0, 0), LENGTH),
    (GEMINI, {"contents": gemini({"inline_data": {"mime_type": "audio/mp3", "data": PIXEL}})}, (0, 120, 0), LENGTH),
    (GEMINI, {"contents": gemini({"fileData": {"mimeType": "video/mp4", "fileUri": "gs://x"}})}, (0, 0, 1), 0),
    (INTERACTIONS, {"input": [{"type": "image", "data": PIXEL, "mime_type": "image/png"}]}, (1, 0, 0), LENGTH),
    (INTERACTIONS, {"input": [{"type": "audio", "data": PIXEL}, {"type": "text", "text": "x"}]}, (0, 120, 0), LENGTH),
    (INTERACTIONS, {"input": [{"type": "video", "uri": "gs://x"}]}, (0, 0, 1), 0),
    (CONVERSATIONS, {"inputs": parts({"type": "image_url", "image_url": DATA_URL})}, (1, 0, 0), LENGTH),
    (
        CONVERSE,
        {"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": PIXEL}}}]}]},
        (1, 0, 0),
        LENGTH,
    ),
    (CONVERSE, {"messages": [{"content": [{"document": {"source": S3}}]}]}, (0, 0, 1), 0),
    (COHERE, {"messages": parts({"type": "image_url", "image_url": {"url": DATA_URL}})}, (1, 0, 0), LENGTH),
    (OLLAMA, {"messages": [{"content": "look", "images": [PIXEL, PIXEL]}]}, (2, 0, 0), 2 * LENGTH),
    (("localhost", "/api/generate"), {"prompt": "look", "images": [PIXEL]}, (1, 0, 0), LENGTH),
]


@pytest.mark.parametrize(("where", "body", "media", "payload_bytes"), MEDIA)
def test_media(where: tuple[str, str], body: dict[str, Any], media: tuple[int, int, int], payload_bytes: int) -> None:
    sent = json.dumps({"model": "m", **body}).encode()
    found = ask(where, sent)
    assert (found.images, found.media_bytes, found.remote_media) == media
    assert found.text_bytes == len(sent) - payload_bytes
    assert (found.text is None) is any(media)


def test_words_about_media_are_no_media() -> None:
    for where, field in ((OPENAI, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")):
        talk = [{"role": "user", "content": 'Send {"type":"image_url","image_url":"x"} and a "source", a "file".'}]
        found = ask(where, {"model": "m", field: talk})
        assert found.text is not None
        assert found.images == found.media_bytes == found.remote_media == 0


FUNCTION = {"type": "function", "function": {"name": "f"}}
TOOLS: list[tuple[tuple[str, str], dict[str, Any], tuple[bool, bool]]] = [
    (OPENAI, {**CHAT, "tools": [FUNCTION]}, (True, False)),
    (OPENAI, {**CHAT, "tools": [], "functions": None}, (False, False)),
    (OPENAI, {**CHAT, "response_format": {"type": "json_schema"}}, (True, False)),
    (OPENAI, {**CHAT, "response_format": {"type": "text"}}, (False, False)),
    (OPENAI, {**CHAT, "web_search_options": {"search_context_size": "low"}}, (False, True)),
    (OPENAI, {**CHAT, "model": "gpt-4o-search-preview"}, (False, True)),
    (("openrouter.ai", "/api/v1/chat/completions"), {**CHAT, "model": "x:online"}, (False, True)),
    (("openrouter.ai", "/api/v1/chat/completions"), {**CHAT, "plugins": [{"id": "web"}]}, (False, True)),
    (("api.groq.com", "/openai/v1/chat/completions"), {**CHAT, "model": "groq/compound"}, (False, True)),
    (RESPONSES, {"input": "x", "tools": [{"type": "function", "name": "f"}]}, (True, False)),
    (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]}, (True, True)),
    (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_url": "x"}]}, (True, True)),
    (RESPONSES, {"input": "x", "text": {"format": {"type": "json_schema"}}}, (True, False)),
    (RESPONSES, {"input": "x", "text": {"format": {"type": "text"}}}, (False, False)),
    (RESPONSES, {"input": "x", "reasoning": {"mode": "pro"}}, (False, True)),
    (RESPONSES, {"input": "x", "reasoning": {"effort": "low"}}, (False, False)),
    (RESPONSES, {"input": [{"type": "additional_tools", "tools": [{}]}]}, (True, False)),
    (MESSAGES, {**CHAT, "tools": [{"name": "f", "input_schema": {}}]}, (True, False)),
    (MESSAGES, {**CHAT, "tools": [{"type": "bash_20250124"}, {"type": "memory_20250818"}]}, (True, False)),
    (MESSAGES, {**CHAT, "tools": [{"type": "web_search_20250305"}]}, (True, True)),
    (MESSAGES, {**CHAT, "mcp_servers": [{"url": "x"}]}, (False, True)),
    (MESSAGES, {**CHAT, "output_config": {"format": {"type": "json_schema"}}}, (True, False)),
    (GEMINI, {"contents": [], "tools": [{"functionDeclarations": []}]}, (True, False)),
    (GEMINI, {"contents": [], "tools": [{"googleSearch": {}}]}, (True, True)),
    (GEMINI, {"contents": [], "generationConfig": {"responseSchema": {}}}, (True, False)),
    (INTERACTIONS, {"input": "x", "tools": [{"type": "function", "name": "f"}]}, (True, False)),
    (INTERACTIONS, {"input": "x", "tools": [{"type": "google_search"}]}, (True, True)),
    (INTERACTIONS, {"input": "x", "response_format": {"type": "text"}}, (True, False)),
    (CONVERSATIONS, {"inputs": "x", "tools": [{"type": "function", "function": {}}]}, (True, False)),
    (CONVERSATIONS, {"inputs": "x", "tools": [{"type": "web_search"}]}, (True, True)),
    (CONVERSATIONS, {"inputs": "x", "completion_args": {"response_format": {"type": "json_object"}}}, (True, False)),
    (DASHSCOPE, {"input": {}, "parameters": {"tools": [FUNCTION]}}, (True, False)),
    (DASHSCOPE, {"input": {}, "parameters": {"enable_search": True}}, (False, True)),
    (DASHSCOPE, {"input": {"messages": [{"content": [{"image": "https://x"}]}]}}, (False, True)),
    (CONVERSE, {"messages": [], "toolConfig": {"tools": [{"toolSpec": {}}]}}, (True, False)),
    (("localhost", "/api/chat"), {**CHAT, "format": "", "tools": []}, (False, False)),
]


@pytest.mark.parametrize(("where", "body", "tools"), TOOLS)
def test_tools(where: tuple[str, str], body: dict[str, Any], tools: tuple[bool, bool]) -> None:
    found = ask(where, {"model": "m", **body})
    assert (found.tools, found.server_tools) == tools


def test_what_the_server_holds() -> None:
    found = ask(RESPONSES, {"input": "x", "previous_response_id": "resp_1"})
    assert (found.previous_response_id, found.server_state) == ("resp_1", True)
    assert ask(RESPONSES, {"input": "x", "conversation": "conv_1"}).server_state
    assert ask(RESPONSES, {"input": "x", "prompt": {"id": "pmpt_1"}}).server_state
    assert not ask(RESPONSES, {"input": "x", "previous_response_id": None}).server_state
    assert ask(GEMINI, {"contents": [], "cachedContent": "cachedContents/1"}).server_state
    assert ask(MESSAGES, {**CHAT, "container": "c_1"}).server_state
    found = ask(INTERACTIONS, {"agent": "deep-research", "input": "x", "previous_interaction_id": "i1"})
    assert (found.model, found.previous_response_id, found.server_state) == ("deep-research", "i1", True)
    assert found.server_tools
    assert not ask(INTERACTIONS, {"model": "m", "input": "x"}).server_state
    assert not ask(CONVERSATIONS, {"model": "m", "inputs": "x"}).server_state
    assert ask((CONVERSATIONS[0], "/v1/conversations/conv_1"), {"inputs": "x"}).server_state
    found = ask(CONVERSATIONS, {"agent_id": "ag_1", "inputs": "x"})
    assert (found.server_state, found.server_tools, found.model) == (True, True, None)


def test_streams() -> None:
    assert ask(("localhost", "/api/chat"), CHAT).stream
    assert not ask(("localhost", "/api/chat"), {**CHAT, "stream": False}).stream
    assert ask(("localhost", "/api/generate"), {"prompt": "x"}).stream
    assert not ask(("localhost", "/api/embed"), {"input": "x"}).stream
    assert ask((GEMINI[0], GEMINI[1].replace("generate", "streamGenerate")), {"contents": []}).stream
    assert ask((CONVERSE[0], CONVERSE[1] + "-stream"), {"messages": []}).stream
    assert ask(MESSAGES, {**CHAT, "stream": True}).stream
    for verb, streams in (("chat", False), ("chat_stream", True), ("generation", False), ("generation_stream", True)):
        found = ask((WATSONX, f"/ml/v1/text/{verb}"), {"model_id": "ibm/granite", "messages": []})
        assert (found.stream, found.model) == (streams, "ibm/granite")
    assert ask(("localhost", "/generate_stream"), {"inputs": "x"}).stream
    assert ask(INTERACTIONS, {"model": "m", "input": "x", "stream": True}).stream


def test_usage_is_not_asked_for_where_it_comes_unasked() -> None:
    for where in (
        (WATSONX, "/ml/v1/text/chat_stream"),
        ("x-y.snowflakecomputing.com", "/api/v2/cortex/inference:complete"),
        INTERACTIONS,
        CONVERSATIONS,
    ):
        for body in (CHAT, {**CHAT, "tools": []}):  # in one pass, and field by field
            found = ask(where, {**body, "stream": True})
            assert (found.stream, found.can_ask_usage) == (True, False)


def test_who_asks() -> None:
    assert ask(OPENAI, {**CHAT, "user": "u", "safety_identifier": "s"}).user == "u"
    assert ask(OPENAI, {**CHAT, "safety_identifier": "s"}).user == "s"
    assert ask(MESSAGES, {**CHAT, "metadata": {"user_id": "a"}}).user == "a"
    assert ask(MESSAGES, {**CHAT, "metadata": "nonsense"}).user is None
    many = {f"key{number}": "v" * 600 for number in range(40)} | {"number": 1}
    kept = ask(OPENAI, {**CHAT, "metadata": many}).metadata
    assert len(kept) == 16
    assert set(map(len, kept.values())) == {512}


def test_decisions_answer_no_more_than_is_asked() -> None:
    questions = [{"type": "predicate", "instructions": "Is it?"}]
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    body = {"model": "gpt-6-luna", "input": [{"role": "user", "content": [picture]}], "questions": questions}
    found = ask(DECISIONS, {**body, "safety_identifier": "alice"})
    assert (found.model, found.user, found.images, found.can_cap) == ("gpt-6-luna", "alice", 1, False)
    assert found.max_output_tokens == len(json.dumps(questions))
    assert ask(DECISIONS, {"model": "gpt-6-luna"}).max_output_tokens == 0


@pytest.mark.parametrize(
    ("fallbacks", "passes"),
    [(None, 1), ([], 1), ("default", 2), ([{"model": "claude-opus-4-8"}, {"model": "claude-sonnet-5"}], 3)],
)
def test_a_model_that_may_step_in_is_one_more_pass(fallbacks: Any, passes: int) -> None:
    body = {"model": "claude-fable-5", "max_tokens": 9, "messages": [], "fallbacks": fallbacks}
    assert ask(MESSAGES, body).passes == passes


def test_what_changes_the_price() -> None:
    assert ask(OPENAI, {**CHAT, "service_tier": "flex"}).price_context == {"service_tier": "flex"}
    assert ask(OPENAI, {**CHAT, "service_tier": "auto"}).price_context == {}
    assert ask(MESSAGES, {**CHAT, "speed": "fast"}).price_context == {"speed": "fast"}
    assert ask(CONVERSE, {"messages": [], "serviceTier": {"type": "flex"}}).price_context == {"service_tier": "flex"}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe", b'{"a":1}x', b"[" * 5_000])
def test_what_cannot_be_read_is_a_call_all_the_same(body: bytes) -> None:
    for where in EVERY:
        found = ask(where, body)
        assert not found.readable
        assert not found.can_cap
        assert found.text_bytes == len(body)
    assert ask(GEMINI, body).model == "gemini-2.5-pro"


FIELDS: tuple[str, ...]
FIELDS = ("messages", "input", "contents", "system", "prompt", "tools", "functions", "text", "images", "options")
FIELDS += ("max_tokens", "max_output_tokens", "n", "stream", "stream_options", "metadata", "user", "service_tier")
FIELDS += ("completion_args", "parameters", "generation_config", "agent", "agent_id", "inputs", "n_predict", "model_id")
FIELDS += ("generationConfig", "inferenceConfig", "toolConfig", "output_config", "response_format", "container")


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, [1], {"x": None}, [[{}]], True, 1.5])
def test_fields_of_the_wrong_kind_spoil_nothing(value: object) -> None:
    for where in EVERY:
        for name in FIELDS:
            assert ask(where, {"model": "m", name: value}).readable, name
            assert ask(where, {"model": "m", name: {"type": value, "format": {"type": value}}}).readable, name


def test_forms() -> None:
    lines = ['--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n']
    lines += [
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n' + "x" * 100 + "\r\n--b--\r\n"
    ]
    body = "".join(lines).encode()
    found = ask(("api.openai.com", "/v1/audio/transcriptions"), body, "multipart/form-data; boundary=b")
    assert (found.model, found.media_bytes, found.readable, found.can_cap) == ("whisper-1", len(body), True, False)
    picture = body.replace(b'name="file"', b'name="image[]"')
    found = ask(("api.openai.com", "/v1/images/edits"), picture, "multipart/form-data; boundary=b")
    assert (found.images, found.media_bytes) == (1, 0)
