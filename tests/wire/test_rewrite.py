"""Rewritten bodies: the one field changes, and every other keeps its bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenmeter import wire


def capped(host: str, path: str, body: bytes) -> Any:
    route = wire.recognise("POST", host, path)
    assert route is not None
    assert wire.read_request(route, body, "application/json").can_cap
    after = wire.with_output_cap(route, body, 50)
    assert wire.read_request(route, after, "application/json").max_output_tokens == 50
    return json.loads(after)


WATSONX = "us-south.ml.cloud.ibm.com"
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("host", "path", "before", "after"),
    [
        ("api.openai.com", "/v1/chat/completions", {}, {"max_completion_tokens": 50}),
        ("api.openai.com", "/v1/chat/completions", {"max_tokens": 90}, {"max_tokens": 50}),
        ("x.openai.azure.com", "/openai/deployments/d/chat/completions", {}, {"max_completion_tokens": 50}),
        ("api.groq.com", "/openai/v1/chat/completions", {}, {"max_tokens": 50}),
        ("api.groq.com", "/openai/v1/chat/completions", {"max_completion_tokens": 9}, {"max_completion_tokens": 50}),
        ("localhost", "/v1/chat/completions", {}, {"max_tokens": 50}),
        (
            "localhost",
            "/v1/chat/completions",
            {"max_tokens": 90, "max_completion_tokens": 90},
            {"max_tokens": 50, "max_completion_tokens": 50},
        ),
        ("api.openai.com", "/v1/completions", {"prompt": "x"}, {"prompt": "x", "max_tokens": 50}),
        ("api.openai.com", "/v1/responses", {"input": "x"}, {"input": "x", "max_output_tokens": 50}),
        ("api.anthropic.com", "/v1/messages", {"max_tokens": 90}, {"max_tokens": 50}),
        (
            "generativelanguage.googleapis.com",
            "/v1/models/g:generateContent",
            {"generationConfig": {"temperature": 0}},
            {"generationConfig": {"temperature": 0, "maxOutputTokens": 50}},
        ),
        (BEDROCK, "/model/m/converse", {}, {"inferenceConfig": {"maxTokens": 50}}),
        (BEDROCK, "/model/us.meta.llama3/invoke", {"prompt": "x"}, {"prompt": "x", "max_gen_len": 50}),
        (BEDROCK, "/model/arn%3Ax/invoke", {"max_gen_len": 90}, {"max_gen_len": 50}),
        (
            BEDROCK,
            "/model/amazon.nova-pro/invoke",
            {"inferenceConfig": {"max_new_tokens": 90}},
            {"inferenceConfig": {"max_new_tokens": 50}},
        ),
        (
            "generativelanguage.googleapis.com",
            "/v1beta/interactions",
            {"model": "m", "generation_config": {"temperature": 0}},
            {"model": "m", "generation_config": {"temperature": 0, "max_output_tokens": 50}},
        ),
        (
            "api.mistral.ai",
            "/v1/conversations",
            {"model": "m"},
            {"model": "m", "completion_args": {"max_tokens": 50}},
        ),
        (WATSONX, "/ml/v1/text/chat", {"model_id": "m"}, {"model_id": "m", "max_tokens": 50}),
        (WATSONX, "/ml/v1/text/generation", {"input": "x"}, {"input": "x", "parameters": {"max_new_tokens": 50}}),
        ("localhost", "/completion", {"n_predict": -1}, {"n_predict": 50}),
        ("localhost", "/generate", {"inputs": "x"}, {"inputs": "x", "parameters": {"max_new_tokens": 50}}),
        ("api.anthropic.com", "/v1/complete", {"max_tokens_to_sample": 90}, {"max_tokens_to_sample": 50}),
        ("api.cohere.com", "/v2/chat", {"max_tokens": None}, {"max_tokens": 50}),
        ("localhost", "/api/chat", {"options": {"seed": 1}}, {"options": {"seed": 1, "num_predict": 50}}),
        ("localhost", "/api/chat", {"options": None}, {"options": {"num_predict": 50}}),
    ],
)
def test_the_cap_stands_in_the_right_field(host: str, path: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    assert capped(host, path, json.dumps(before).encode()) == after


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("api.openai.com", "/v1/embeddings"),
        ("api.openai.com", "/v1/images/generations"),
        ("api.openai.com", "/v1/responses/compact"),
        ("api.cohere.com", "/v2/rerank"),
        (WATSONX, "/ml/v1/text/embeddings"),
        ("api.mistral.ai", "/v1/conversations/conv_1"),  # an agent's or a conversation's own settings hold
        ("generativelanguage.googleapis.com", "/v1beta/interactions"),
        ("api.cloudflare.com", "/client/v4/accounts/a/ai/run/@cf/meta/llama-3"),
        (BEDROCK, "/model/arn%3Ax/invoke"),
        (BEDROCK, "/model/amazon.titan-embed-text-v2/invoke"),
    ],
)
def test_where_no_cap_can_be_written_the_body_stays(host: str, path: str) -> None:
    route = wire.recognise("POST", host, path)
    assert route is not None
    body = b'{ "prompt" : "x" }'
    assert not wire.read_request(route, body, "application/json").can_cap
    assert wire.with_output_cap(route, body, 5) is body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"stream_options":3,"options":[]}'])
def test_what_cannot_be_read_stays(body: bytes) -> None:
    chat = wire.recognise("POST", "api.openai.com", "/v1/chat/completions")
    ollama = wire.recognise("POST", "localhost", "/api/chat")
    assert chat is not None
    assert ollama is not None
    assert wire.with_usage_asked(chat, body) == body
    assert wire.with_output_cap(ollama, body, 5) == body


def test_other_fields_keep_their_bytes() -> None:
    route = wire.recognise("POST", "api.openai.com", "/v1/chat/completions")
    assert route is not None
    kept = rb'"messages":[ {"role" : "user","content":"\u00e9 \/ \ud83d\ude00 1.0"} ],"temperature":1.50e+0'
    body = b'{"model":"m",' + kept + b',"stream":true,"stream_options":{"include_obfuscation": false}}'
    asked = wire.with_usage_asked(route, body)
    assert kept in asked
    assert json.loads(asked)["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert kept in wire.with_output_cap(route, body, 5)


@given(
    fields=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**12), 10**12)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    ),
    cap=st.integers(0, 10**6),
)
def test_rewriting_changes_nothing_else(fields: dict[str, Any], cap: int) -> None:
    route = wire.recognise("POST", "localhost", "/v1/chat/completions")
    assert route is not None
    body = json.dumps(fields).encode()
    after = json.loads(wire.with_output_cap(route, body, cap))
    assert {**fields, "max_tokens": cap} == after
    fields.pop("stream_options", None)
    asked = json.loads(wire.with_usage_asked(route, json.dumps(fields).encode()))
    assert asked == {**fields, "stream_options": {"include_usage": True}}


# -- another model -----------------------------------------------------------------------------------------------


def of(host: str, path: str) -> wire.Route:
    route = wire.recognise("POST", host, path)
    assert route is not None
    return route


CHAT = ("api.openai.com", "/v1/chat/completions")


@pytest.mark.parametrize(
    ("host", "path"),
    [
        CHAT,
        ("api.openai.com", "/v1/completions"),
        ("api.openai.com", "/v1/responses"),
        ("api.openai.com", "/v1/embeddings"),
        ("api.openai.com", "/v1/images/generations"),
        ("x.openai.azure.com", "/openai/v1/chat/completions"),
        ("localhost", "/v1/chat/completions"),
        ("api.anthropic.com", "/v1/messages"),
        ("api.cohere.com", "/v2/chat"),
        ("api.cohere.com", "/v2/embed"),
        ("api.cohere.com", "/v2/rerank"),
        ("generativelanguage.googleapis.com", "/v1beta/interactions"),
        ("api.mistral.ai", "/v1/conversations"),
        ("localhost", "/api/chat"),
        ("localhost", "/api/generate"),
        ("localhost", "/api/embed"),
    ],
)
def test_the_model_in_the_body_is_changed_and_read_back(host: str, path: str) -> None:
    route = of(host, path)
    after = wire.with_model(route, b'{"model": "big", "messages": []}', "small")
    assert after == b'{"model": "small", "messages": []}'
    assert wire.read_request(route, after, "application/json").model == "small"


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("x.openai.azure.com", "/openai/deployments/d/chat/completions"),
        ("x.openai.azure.com", "/openai/deployments/d/embeddings"),
        ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro:generateContent"),
        ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro:streamGenerateContent"),
        ("us-east5-aiplatform.googleapis.com", "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict"),
        (BEDROCK, "/model/anthropic.claude-x/converse"),
        (BEDROCK, "/model/anthropic.claude-x/invoke"),
        ("x.cloud.databricks.com", "/serving-endpoints/m/invocations"),
        ("api.cloudflare.com", "/client/v4/accounts/a/ai/run/@cf/meta/llama-3"),
        (WATSONX, "/ml/v1/deployments/d/text/chat"),
    ],
)
def test_a_model_in_the_path_is_not_changed(host: str, path: str) -> None:
    route = of(host, path)
    assert wire.with_model(route, b'{"model": "big"}', "small") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b'"model"',
        b'["model", "big"]',
        b"\xff",
        b'{"model": "big"',
        b'{"messages": [{"model": "big"}]}',
        b'\xef\xbb\xbf{"model": "big"}',
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nbig\r\n--x--',
    ],
)
def test_a_body_without_a_model_that_can_be_read_is_not_changed(body: bytes) -> None:
    assert wire.with_model(of(*CHAT), body, "small") is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"big"}', b'{"model":"s\xc3\xa9\\"\\\\"}'),
        (b' \r\n{ "model"\t:\n"big" , "n" : 1.50e+0 }\n', b' \r\n{ "model"\t:\n"s\xc3\xa9\\"\\\\" , "n" : 1.50e+0 }\n'),
        (b'{"model":"a","x":1,"model":"b"}', b'{"model":"s\xc3\xa9\\"\\\\","x":1,"model":"s\xc3\xa9\\"\\\\"}'),
        (b'{"mod\\u0065l":"big"}', b'{"mod\\u0065l":"s\xc3\xa9\\"\\\\"}'),
        (b'{"model":null,"tools":[]}', b'{"model":"s\xc3\xa9\\"\\\\","tools":[]}'),
        (b'{"model":{"a":["}",{"b":"]"}]},"x":0}', b'{"model":"s\xc3\xa9\\"\\\\","x":0}'),
        (
            b'{"x":{"model":"in"},"y":["{\\"model\\":\\"t\\"}",{"model":[]}],"a\\\\":"\\\\","model":"big"}',
            b'{"x":{"model":"in"},"y":["{\\"model\\":\\"t\\"}",{"model":[]}],"a\\\\":"\\\\","model":"s\xc3\xa9\\"\\\\"}',
        ),
        (b'{"models":"m","Model":"m","model ":"m","model":"m"}', None),
    ],
)
def test_every_other_byte_stays(before: bytes, after: bytes | None) -> None:
    found = wire.with_model(of(*CHAT), before, 'sé"\\')
    assert found == (after or b'{"models":"m","Model":"m","model ":"m","model":"s\xc3\xa9\\"\\\\"}')


def test_a_name_that_is_no_unicode_changes_nothing() -> None:
    assert wire.with_model(of(*CHAT), b'{"model":"m"}', "\ud800") is None


MARK = "the model stands here"
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "", 'mo"del']) | st.text(), inner)
    ),
    max_leaves=10,
)


@given(
    before=st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
    after=st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
    old=VALUES,
    new=st.text(),
    indent=st.none() | st.integers(0, 3) | st.sampled_from(["\t", "\r\n"]),
    plain=st.booleans(),
    separators=st.sampled_from([(",", ":"), (" , ", " : "), (",\n", ":\t")]),
)
def test_the_model_alone_is_changed(
    before: dict[str, Any],
    after: dict[str, Any],
    old: Any,
    new: str,
    indent: int | str | None,
    plain: bool,
    separators: tuple[str, str],
) -> None:
    fields = {**before, "model": old, **{key: value for key, value in after.items() if key != "model"}}
    text = json.dumps(fields, indent=indent, ensure_ascii=plain, separators=separators)
    body = text.encode()
    found = wire.with_model(of(*CHAT), body, new)
    assert found is not None
    assert json.loads(found) == {**fields, "model": new}
    assert list(json.loads(found)) == list(fields)
    marked = json.dumps({**fields, "model": MARK}, indent=indent, ensure_ascii=plain, separators=separators)
    assume(marked.count(MARK) == 1)
    assert found == marked.encode().replace(f'"{MARK}"'.encode(), msgspec.json.encode(new))


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        ('{"error": {"message": "Unknown parameter: \'stream_options\'."}}', True),
        ('{"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options", "include_usage"]}]}', True),
        ("Additional properties are not allowed", True),
        ("Extra inputs are not permitted", True),
        ('{"error": "unsupported option", "model": "m"}', True),
        ('{"error": {"message": "Unsupported value: \'temperature\' does not support 0.2"}}', False),
        ('{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}]}', False),
        ("Unknown field `response_format.type`", False),
        ("The prompt is too long", False),
    ],
)
def test_what_an_error_blames(error: str, blamed: bool) -> None:
    body = (
        b'{"model":"m","messages":[],"stream":true,"temperature":0.2,"seed":1,"response_format":{},"stream_options":{}}'
    )
    assert wire.rejects_usage_asked(body, error) is blamed
    assert wire.rejects_usage_asked(b"no JSON", "unsupported")


@given(body=st.binary(max_size=40) | st.text('{}[]":,\\model \n0e', max_size=40).map(str.encode))
def test_nothing_that_is_sent_makes_it_raise(body: bytes) -> None:
    found = wire.with_model(of(*CHAT), body, "small")
    if found is not None:
        assert json.loads(found) == {**json.loads(body), "model": "small"}
