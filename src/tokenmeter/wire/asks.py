"""What a request asks for, read from its body: only the fields that are needed are decoded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tokenmeter.wire.fields import Fields, count, largest, metadata, tier
from tokenmeter.wire.rewrite import cap_path
from tokenmeter.wire.tally import UNREADABLE
from tokenmeter.wire.types import Ask, Route

_FUNCTIONS: Final = frozenset({"function", "custom", "namespace", None})
_ANTHROPIC_CLIENT_TOOLS: Final = ("custom", "bash_", "text_editor_", "computer_", "memory_")
_GEMINI_CLIENT_TOOLS: Final = frozenset(
    {"functionDeclarations", "function_declarations", "computerUse", "computer_use"}
)


def read_request(route: Route, body: bytes, content_type: str | None) -> Ask:
    """Read the body of a model call. Never raises: what can't be read is an Ask that is not ``readable``."""
    try:
        if content_type is not None and content_type.lower().startswith("multipart/"):
            return _read_form(route, body)
        return (_plain_chat(route, body) if route.protocol == "openai.chat" else None) or _ask(Fields(route, body))
    except UNREADABLE:
        return Ask(
            model=route.model,
            stream=bool(route.stream),
            max_output_tokens=_no_output(route),
            text_bytes=len(body),
            text=body,
            readable=False,
        )


def _no_output(route: Route) -> int | None:
    return 0 if route.operation in {"embeddings", "rerank"} else None


class _PlainMessage(msgspec.Struct, gc=False):
    content: str | None = None


class _PlainChat(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The request that most are: messages of text, and nothing that changes what they cost."""

    model: str
    messages: list[_PlainMessage]
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None


_as_plain_chat = msgspec.json.Decoder(_PlainChat).decode


def _plain_chat(route: Route, body: bytes) -> Ask | None:
    """A plain chat in one pass of the decoder; None for any other."""
    try:
        plain = _as_plain_chat(body)
    except UNREADABLE:
        return None
    model, provider = plain.model, route.provider
    if not model or _searches(provider, model):
        return None
    cap, older = plain.max_completion_tokens, plain.max_tokens
    if cap is None or (older is not None and older > cap):
        cap = older
    stream = plain.stream is True
    return Ask(
        model=model,
        stream=stream if plain.stream is not None or route.stream is None else route.stream,
        max_output_tokens=cap if cap is not None and cap >= 0 else None,
        text_bytes=len(body),
        text_only=True,
        can_ask_usage=stream and route.stream is None and provider not in _REPORTS_ALWAYS,
        can_cap=True,
        text=body,
    )


class _Typed(msgspec.Struct, gc=False):
    type: Any = None


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = msgspec.Raw()


class _MessageOfParts(msgspec.Struct, gc=False):
    content: str | list[_Typed] | None = None


_as_typed = msgspec.json.Decoder(list[_Typed]).decode
_as_messages = msgspec.json.Decoder(list[_Message]).decode
_as_messages_of_parts = msgspec.json.Decoder(list[_MessageOfParts]).decode
_as_keys = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode


def _ask(fields: Fields) -> Ask:
    read = _READERS.get(fields.route.protocol, _plain)
    found: dict[str, Any] = read(fields)
    media = fields.media(*found.pop("media", ()))
    text_bytes = len(fields.body) - media.payload_bytes if media else len(fields.body)
    stream = found.pop("stream", None)
    if stream is None:
        stream = fields.route.stream if fields.route.stream is not None else fields.get("stream") is True
    cap = found.pop("cap", None)
    return Ask(
        model=found.pop("model", None) or fields.string("model", "model_id") or fields.route.model,
        stream=stream,
        max_output_tokens=cap if type(cap) is int and cap >= 0 else None,
        text_bytes=max(0, text_bytes),
        images=media.images,
        media_bytes=media.media_bytes,
        remote_media=media.remote,
        text=None if media else fields.body,
        can_cap=cap_path(fields.route, fields.raw) is not None,
        **found,
    )


def _openai_tools(fields: Fields) -> bool:
    """Whether one of the tools runs at the provider."""
    raw = fields.raw.get("tools")
    if raw is None:
        return False
    try:
        return any(
            tool.type is not None and (type(tool.type) is not str or tool.type not in _FUNCTIONS)
            for tool in _as_typed(raw)
        )
    except UNREADABLE:
        return False


def _chat(fields: Fields) -> dict[str, Any]:
    model = fields.string("model") or fields.route.model or ""
    provider = fields.route.provider
    stream = fields.get("stream") is True
    options = fields.get("stream_options")
    asked = type(options) is dict and "include_usage" in options
    return {
        "media": (("messages",), (b"",)) if _may_have_media(fields) else (),
        "stream": stream if "stream" in fields.raw or fields.route.stream is None else fields.route.stream,
        "cap": largest(fields.get("max_completion_tokens"), fields.get("max_tokens")),
        "choices": count(fields.get("n")),
        "tools": fields.given("tools", "functions") or fields.within("response_format", "type") not in (None, "text"),
        "server_tools": fields.given("web_search_options", "plugins", "search_parameters", "data_sources")
        or _searches(provider, model)
        or _openai_tools(fields),
        # where the path streams, it is no API of OpenAI's, and reports unasked
        "can_ask_usage": stream and not asked and fields.route.stream is None and provider not in _REPORTS_ALWAYS,
        "user": fields.string("user", "safety_identifier"),
        "metadata": metadata(fields.get("metadata")),
        "price_context": tier(fields.get("service_tier")),
    }


def _searches(provider: str, model: str) -> bool:
    """Whether the provider searches the web for this model unasked."""
    return (
        provider == "perplexity"
        or (provider == "groq" and "compound" in model)
        or "search-preview" in model
        or model.endswith(":online")
    )


_REPORTS_ALWAYS: Final = frozenset({"mistral_ai"})


def _may_have_media(fields: Fields) -> bool:
    """Whether a message has a part that is no text. One pass of the decoder beats a search for markers."""
    raw = fields.raw.get("messages")
    if raw is None:
        return False
    try:
        contents = [message.content for message in _as_messages(raw)]
        if not any(len(content) > 1 and memoryview(content)[0] == _BRACKET for content in contents):
            return False
        return any(
            part.type not in _TEXTS
            for message in _as_messages_of_parts(raw)
            if type(message.content) is list
            for part in message.content
        )
    except UNREADABLE:
        return True


_BRACKET: Final = ord("[")
_TEXTS: Final = ("text", "refusal", "thinking")


def _completions(fields: Fields) -> dict[str, Any]:
    found = _chat(fields)
    choices = largest(fields.get("n"), fields.get("best_of")) or 1
    prompt = fields.get("prompt")
    if type(prompt) is list and prompt and type(prompt[0]) is not int:
        choices *= len(prompt)
    return {**found, "media": (), "choices": choices}


def _responses(fields: Fields) -> dict[str, Any]:
    previous = fields.string("previous_response_id")
    return {
        "media": (
            ("input",),
            (b'"input_image"', b'"input_file"', b'"input_audio"', b'"computer_screenshot"'),
        ),
        "cap": fields.get("max_output_tokens"),
        "tools": fields.given("tools")
        or b'"additional_tools"' in fields.body
        or (fields.given("text") and fields.within("text", "format", "type") not in (None, "text")),
        # a mode such as "pro" works through the input more than once at the provider, and bills each time
        "server_tools": _openai_tools(fields)
        or fields.given("plugins")
        or fields.within("reasoning", "mode") not in (None, "standard"),
        "previous_response_id": previous,
        "server_state": previous is not None
        or fields.given("conversation", "prompt")
        or b'"item_reference"' in fields.body,
        "user": fields.string("user", "safety_identifier"),
        "metadata": metadata(fields.get("metadata")),
        "price_context": tier(fields.get("service_tier")),
    }


def _messages(fields: Fields) -> dict[str, Any]:
    try:
        kinds = [tool.type for tool in _as_typed(fields.raw["tools"])] if "tools" in fields.raw else []
    except UNREADABLE:
        kinds = []
    remote = any(type(kind) is str and not kind.startswith(_ANTHROPIC_CLIENT_TOOLS) for kind in kinds)
    return {
        "media": (("messages", "system"), (b'"source"',)),
        "cap": fields.get("max_tokens"),
        "tools": fields.given("tools", "output_format") or bool(fields.within("output_config", "format")),
        "passes": 2 if _may_compact(fields) else 1,
        "server_tools": remote or fields.given("mcp_servers"),
        "server_state": fields.given("container"),
        "user": _text(fields.within("metadata", "user_id")),
        "price_context": tier(fields.get("service_tier"), fields.get("speed")),
    }


def _may_compact(fields: Fields) -> bool:
    raw = fields.raw.get("context_management")
    return raw is not None and len(fields.body) >= _LEAST_COMPACTED and b'"compact_' in bytes(raw)


_LEAST_COMPACTED: Final = 50_000  # tokens, of which none is less than a byte: the smallest trigger that Anthropic takes


def _text(value: Any) -> str | None:
    return value if type(value) is str and value else None


def _gemini(fields: Fields) -> dict[str, Any]:
    config = fields.get("generationConfig", "generation_config")
    config = config if type(config) is dict else {}
    try:
        tools = _as_keys(fields.raw["tools"]) if "tools" in fields.raw else []
    except UNREADABLE:
        tools = []
    schema = any(key in config for key in ("responseSchema", "responseJsonSchema", "response_schema"))
    return {
        "media": (("contents", "systemInstruction"), (b'Data"', b'_data"')),
        "cap": largest(config.get("maxOutputTokens"), config.get("max_output_tokens")),
        "choices": count(config.get("candidateCount") or config.get("candidate_count")),
        "tools": bool(tools) or schema,
        "server_tools": any(key not in _GEMINI_CLIENT_TOOLS for tool in tools for key in tool),
        "server_state": fields.given("cachedContent", "cached_content"),
        "metadata": metadata(fields.get("labels")),
        "price_context": tier(fields.get("serviceTier", "service_tier")),
    }


def _converse(fields: Fields) -> dict[str, Any]:
    model = fields.route.model or ""
    return {
        "media": (("messages", "system"), (b'"source"',)),
        "cap": largest(
            fields.within("inferenceConfig", "maxTokens"), fields.within("inferenceConfig", "max_new_tokens")
        ),
        "tools": fields.given("toolConfig", "outputConfig"),
        "server_tools": b'"systemTool"' in fields.body,
        "server_state": ":prompt/" in model,
        "metadata": metadata(fields.get("requestMetadata")),
        "price_context": tier(fields.within("serviceTier", "type")),
    }


def _invoke(fields: Fields) -> dict[str, Any]:
    if fields.route.operation == "embeddings":
        return {**_no_answer(fields), "media": ()}
    if "anthropic_version" in fields.raw:
        return _messages(fields)
    if "inferenceConfig" in fields.raw or "schemaVersion" in fields.raw:
        return _converse(fields)
    return {
        "media": (("messages",), (b'_url"', b'"source"')),
        "cap": largest(
            *(fields.get(name) for name in _INVOKE_CAPS),
            fields.within("textGenerationConfig", "maxTokenCount"),
        ),
        "choices": count(fields.get("n", "num_generations", "numResults")),
        "tools": fields.given("tools", "response_format"),
    }


_INVOKE_CAPS: Final = ("max_completion_tokens", "max_tokens", "max_gen_len", "maxTokens", "max_tokens_to_sample")


def _cohere(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("messages",), (b'_url"',)),
        "cap": fields.get("max_tokens"),
        "choices": count(fields.get("num_generations")),
        "tools": fields.given("tools")
        or (fields.given("response_format") and fields.within("response_format", "type") != "text"),
        "server_tools": fields.given("connectors"),
        "server_state": fields.given("conversation_id"),
    }


def _ollama(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("messages", "images"), (b'"images"',)),
        "stream": fields.get("stream") is not False,
        "cap": fields.within("options", "num_predict"),  # negative: without end
        "tools": fields.given("tools", "format"),
    }


def _complete(fields: Fields) -> dict[str, Any]:
    return {"cap": fields.get("max_tokens_to_sample"), "user": _text(fields.within("metadata", "user_id"))}


def _interactions(fields: Fields) -> dict[str, Any]:
    previous = fields.string("previous_interaction_id")
    return {
        "model": fields.string("model", "agent"),
        "media": (("input", "system_instruction"), (b'"data"', b'"uri"')),
        "cap": fields.within("generation_config", "max_output_tokens"),
        "tools": fields.given("tools", "response_format"),
        "server_tools": fields.given("agent") or _openai_tools(fields),
        "previous_response_id": previous,
        "server_state": previous is not None,
        "price_context": tier(fields.get("service_tier")),
    }


def _conversations(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("inputs",), (b'_url"', b'"file"')),
        "cap": fields.within("completion_args", "max_tokens"),
        "tools": fields.given("tools")
        or fields.within("completion_args", "response_format", "type") not in (None, "text"),
        "server_tools": fields.given("agent_id") or _openai_tools(fields),
        "server_state": not fields.given("model"),  # it goes on, or an agent's instructions come before it
        "metadata": metadata(fields.get("metadata")),
    }


def _generation(fields: Fields) -> dict[str, Any]:
    """Watsonx and TGI."""
    return {"cap": fields.within("parameters", "max_new_tokens")}


def _llamacpp(fields: Fields) -> dict[str, Any]:
    prompt = fields.get("prompt")
    several = type(prompt) is list and bool(prompt) and all(type(each) is not int for each in prompt)
    return {"cap": fields.get("n_predict"), "choices": len(prompt) if several else 1}


def _run(fields: Fields) -> dict[str, Any]:
    if fields.route.operation == "embeddings":
        return {"cap": 0}
    return {
        "media": (("messages", "image"), (b'_url"',)),
        "cap": fields.get("max_tokens"),
        "tools": fields.given("tools", "response_format"),
    }


def _no_answer(fields: Fields) -> dict[str, Any]:
    return {
        "media": (("input", "inputs", "images", "contents", "content", "requests"), _EMBED_MARKERS),
        "cap": 0,
        "user": fields.string("user"),
    }


_EMBED_MARKERS: Final = (b'_url"', b'"images"', b'Data"', b'_data"')


def _plain(fields: Fields) -> dict[str, Any]:
    return {"choices": count(fields.get("n")), "user": fields.string("user")}


_READERS: Final[Mapping[str, Callable[[Fields], dict[str, Any]]]] = {
    "openai.chat": _chat,
    "openai.completions": _completions,
    "openai.responses": _responses,
    "openai.embeddings": _no_answer,
    "anthropic.messages": _messages,
    "gemini.generate": _gemini,
    "anthropic.complete": _complete,
    "gemini.embed": _no_answer,
    "gemini.interactions": _interactions,
    "bedrock.converse": _converse,
    "bedrock.invoke": _invoke,
    "cohere.chat": _cohere,
    "cohere.embed": _no_answer,
    "cohere.rerank": _no_answer,
    "ollama.chat": _ollama,
    "ollama.generate": _ollama,
    "ollama.embed": _no_answer,
    "mistral.conversations": _conversations,
    "mistral.ocr": _no_answer,
    "watsonx.generation": _generation,
    "watsonx.embed": _no_answer,
    "cloudflare.run": _run,
    "llamacpp.completion": _llamacpp,
    "tgi.generate": _generation,
}

_PART = re.compile(rb'name="(model|stream|n|user|prompt)"\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]{0,4096})')
_FILE = re.compile(rb'name="(image|image\[\]|mask|file)"; *filename')


def _read_form(route: Route, body: bytes) -> Ask:
    """Transcriptions and image edits come as forms: small fields, and files."""
    parts = {key.decode(): value.decode("utf-8", "replace") for key, value in _PART.findall(body)}
    files = [name for name in _FILE.findall(body) if name != b"mask"]
    images = sum(name.startswith(b"image") for name in files)
    number = parts.get("n", "")
    return Ask(
        model=parts.get("model") or route.model,
        stream=parts.get("stream", "").lower() == "true",
        choices=int(number) if number.isascii() and number.isdigit() and 0 < len(number) < 4 else 1,
        text_bytes=len(parts.get("prompt", "").encode()),
        images=images,
        media_bytes=len(body) if len(files) > images else 0,
        user=parts.get("user"),
    )
