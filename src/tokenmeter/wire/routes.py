"""Is a request a model call? One look at the last segment of its path answers for all that isn't."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from msgspec.structs import replace

from tokenmeter.wire.hosts import HUGGINGFACE_PARTS, may_serve_ollama, provider_of
from tokenmeter.wire.protocols import tally_of
from tokenmeter.wire.types import Route

_Finder = Callable[[str, str, list[str]], Route | None]

_VERSION = re.compile(r"v\d+[a-z]*\d*")
_BASES: Final = frozenset({"", "openai", "api", "beta", "codex", "compat", "openapi", "serving-endpoints"})


def recognise(method: str, host: str, path: str) -> Route | None:
    """The route of a model call; None for any other request.

    ``path`` has no query and is percent-encoded as it was sent.
    """
    if method != "POST":
        return None
    # Gemini's verb stands behind a colon; without one the whole segment is looked up
    if path.rpartition("/")[2].rpartition(":")[2] not in FINDERS and host not in HOST_FINDERS:
        return None
    return _resolve(host, path)


@lru_cache(maxsize=1024)
def _resolve(host: str, path: str) -> Route | None:
    path = path.rstrip("/")
    last = path.rpartition("/")[2]
    finder = FINDERS.get(last.rpartition(":")[2]) or HOST_FINDERS.get(host)
    route = finder(host, last, path.split("/")[:-1]) if finder is not None and last else None
    if route is not None:
        tally_of(route.protocol)  # imported now, for its answer may be read in a finalizer
    return route


def _route(
    host: str,
    before: list[str],
    protocol: str,
    operation: str,
    *,
    model: str | None = None,
    stream: bool | None = None,
) -> Route:
    known = provider_of(host)
    if known is None:
        provider, price_provider = _speaker(protocol, before), None
    else:
        provider, price_provider = known
        first = before[1] if len(before) > 1 else ""
        if provider == "huggingface" and first in HUGGINGFACE_PARTS and host.startswith("router."):
            price_provider = f"huggingface_{first}"
        elif provider == "azure.ai.inference" and "openai" in before:
            provider = "azure.ai.openai"
        elif provider in _PARTLY_PRICED and not _PARTLY_PRICED[provider].intersection(before):
            price_provider = None
    return Route(protocol, provider, price_provider, operation, host, model, stream, known is not None)


_PARTLY_PRICED: Final = {"databricks": {"serving-endpoints", "ai-gateway"}, "cloudflare": {"ai"}}


def _speaker(protocol: str, before: list[str]) -> str:
    """The provider whose protocol is spoken on a host that nobody here knows."""
    family = protocol.partition(".")[0]
    if family == "gemini":
        return "gcp.vertex_ai" if "publishers" in before else "gcp.gemini"
    if family == "openai" and "deployments" in before and "openai" in before:
        return "azure.ai.openai"  # its own way to name a model, behind a gateway
    return {"bedrock": "aws.bedrock"}.get(family, family)


def _behind_base(host: str, before: list[str]) -> bool:
    """Whether a common word stands where an API has its endpoints, not below some object of another service."""
    last = before[-1] if before else ""
    return last in _BASES or _VERSION.fullmatch(last) is not None or provider_of(host) is not None


def _deployment(before: list[str]) -> str | None:
    """Azure names the deployment in the path."""
    if "deployments" in before:
        at = before.index("deployments") + 1
        return unquote(before[at]) if at < len(before) else None
    return None


def _completions(host: str, _last: str, before: list[str]) -> Route | None:
    parent = before[-1] if before else ""
    if parent in {"chat", "fim", "agents"}:
        operation = "text_completion" if parent == "fim" else "chat"
        return _route(host, before[:-1], "openai.chat", operation, model=_deployment(before))
    if _behind_base(host, before) or "deployments" in before[-2:]:
        return _route(host, before, "openai.completions", "text_completion", model=_deployment(before))
    return None


def _chat(host: str, _last: str, before: list[str]) -> Route | None:
    parent = before[-1] if before else ""
    known = provider_of(host)
    if parent == "api":
        return _route(host, before, "ollama.chat", "chat") if _is_ollama(host, before) else None
    if parent == "text":
        return _watsonx_chat(host, _last, before)
    if parent == "v2" or (parent == "v1" and (_is_cohere(host, before))):
        return _route(host, before, "cohere.chat", "chat")
    if parent == "v1" and known is not None:
        return _route(host, before, "openai.chat", "chat")
    return None


def _is_ollama(host: str, before: list[str]) -> bool:
    """Ollama's own paths, at the root of one's own machine or behind its name."""
    return before[-2:] == ["ollama", "api"] or (before == ["", "api"] and may_serve_ollama(host))


def _watsonx(protocol: str, operation: str, *, stream: bool | None = None) -> _Finder:
    def find(host: str, _last: str, before: list[str]) -> Route | None:
        known = provider_of(host)
        if known is None or known[0] != "ibm.watsonx.ai" or before[-1:] != ["text"]:
            return None
        return _route(host, before, protocol, operation, model=_deployment(before), stream=stream)

    return find


_watsonx_chat = _watsonx("openai.chat", "chat", stream=False)
_watsonx_embed = _watsonx("watsonx.embed", "embeddings")
_watsonx_rerank = _watsonx("watsonx.embed", "rerank")


def _is_cohere(host: str, before: list[str]) -> bool:
    known = provider_of(host)
    return known[0] == "cohere" if known is not None else "cohere" in before


def _responses(host: str, _last: str, before: list[str]) -> Route | None:
    if not _behind_base(host, before) or "threads" in before:
        return None
    return _route(host, before, "openai.responses", "chat")


def _compact(host: str, _last: str, before: list[str]) -> Route | None:
    """Compaction is generated by a model and reports its usage: it is paid for like any response."""
    return _responses(host, "responses", before[:-1]) if before and before[-1] == "responses" else None


def _embeddings(host: str, _last: str, before: list[str]) -> Route | None:
    if _is_ollama(host, before):
        return _route(host, before, "ollama.embed", "embeddings")
    own = _watsonx_embed(host, _last, before)
    return own or _route(host, before, "openai.embeddings", "embeddings", model=_deployment(before))


def _embed(host: str, _last: str, before: list[str]) -> Route | None:
    parent = before[-1] if before else ""
    if parent == "api":
        return _route(host, before, "ollama.embed", "embeddings") if _is_ollama(host, before) else None
    if _VERSION.fullmatch(parent):
        return _route(host, before, "cohere.embed", "embeddings")
    return None


def _generate(host: str, _last: str, before: list[str]) -> Route | None:
    parent = before[-1] if before else ""
    if _is_ollama(host, before):
        return _route(host, before, "ollama.generate", "text_completion")
    if before == [""]:
        return _tgi_generate(host, _last, before)
    if parent == "v1" and _is_cohere(host, before):
        return _route(host, before, "cohere.chat", "text_completion")
    return None


def _tgi(*, stream: bool) -> _Finder:
    def find(host: str, _last: str, before: list[str]) -> Route | None:
        known = provider_of(host)
        own = may_serve_ollama(host) if known is None else known[0] == "huggingface"
        return (
            _route(host, before, "tgi.generate", "text_completion", stream=stream) if own and before == [""] else None
        )

    return find


_tgi_generate = _tgi(stream=False)


def _completion(host: str, _last: str, before: list[str]) -> Route | None:
    """llama.cpp's own, on machines of one's own."""
    own = before == [""] and may_serve_ollama(host)
    return _route(host, before, "llamacpp.completion", "text_completion") if own else None


def _complete(host: str, last: str, before: list[str]) -> Route | None:
    known = provider_of(host)
    provider, parent = known[0] if known is not None else "", before[-1] if before else ""
    if provider == "snowflake" and last == "inference:complete" and parent == "cortex":
        return _route(host, before, "openai.chat", "chat", stream=True)  # unless the body says otherwise
    if provider == "anthropic" and last == "complete" and _VERSION.fullmatch(parent):
        return _route(host, before, "anthropic.complete", "text_completion")
    return None


def _sonar(host: str, _last: str, before: list[str]) -> Route | None:
    known = provider_of(host)
    if known is None or known[0] != "perplexity" or not _VERSION.fullmatch(before[-1] if before else ""):
        return None
    return _route(host, before, "openai.chat", "chat")


def _interactions(host: str, _last: str, before: list[str]) -> Route | None:
    known, parent = provider_of(host), before[-1] if before else ""
    if parent.startswith("v1beta") if known is None else known[0] in _GOOGLE or _VERSION.fullmatch(parent):
        return _route(host, before, "gemini.interactions", "generate_content")
    return None


_GOOGLE: Final = frozenset({"gcp.gemini", "gcp.vertex_ai"})


def _conversations(host: str, last: str, before: list[str]) -> Route | None:
    """Mistral's conversations: begun, gone on with under their id, or restarted."""
    path = [*before, last]
    at = path.index("conversations") if "conversations" in path else 0
    known, rest = provider_of(host), path[at + 1 :]
    if known is None or known[0] != "mistral_ai" or not at or not _VERSION.fullmatch(path[at - 1]):
        return None
    if len(rest) < 2 or rest[1:] == ["restart"]:
        return _route(host, before, "mistral.conversations", "chat")
    return None


def _decisions(host: str, _last: str, before: list[str]) -> Route | None:
    """Typed answers to questions, at prices of their own: genai-prices lists OpenAI's under another provider."""
    if not _behind_base(host, before):
        return None
    route = _route(host, before, "openai.decisions", "decisions")
    return replace(route, price_provider="openai-decisions") if route.price_provider == "openai" else route


def _agent(host: str, _last: str, before: list[str]) -> Route | None:
    """Perplexity's own name for its responses."""
    known = provider_of(host)
    return _responses(host, "responses", before) if known is not None and known[0] == "perplexity" else None


def _ocr(host: str, _last: str, before: list[str]) -> Route | None:
    known, parent = provider_of(host), before[-1] if before else ""
    if known is None or known[0] != "mistral_ai" or not _VERSION.fullmatch(parent):
        return None
    return _route(host, before, "mistral.ocr", "generate_content")


def _workers_ai(host: str, last: str, before: list[str]) -> Route | None:
    """Cloudflare names the model in the path: …/ai/run/@cf/meta/llama-3."""
    at = next((at for at, part in enumerate(before) if part in {"@cf", "@hf"}), 0)
    if before[max(at - 2, 0) : at] != ["ai", "run"] and before[max(at - 1, 0) : at] != ["workers-ai"]:
        return None
    model = unquote("/".join([*before[at:], last]))
    operation = "embeddings" if "embed" in model or "/bge-" in model else "chat"
    return _route(host, before, "cloudflare.run", operation, model=model)


def _rerank(host: str, _last: str, before: list[str]) -> Route | None:
    own = _watsonx_rerank(host, _last, before)
    return own or (_route(host, before, "cohere.rerank", "rerank") if _behind_base(host, before) else None)


def _below(parent: str, protocol: str, operation: str) -> _Finder:
    def find(host: str, _last: str, before: list[str]) -> Route | None:
        if not before or before[-1] != parent:
            return None
        return _route(host, before, protocol, operation, model=_deployment(before))

    return find


def _messages(host: str, _last: str, before: list[str]) -> Route | None:
    if not before or not _VERSION.fullmatch(before[-1]):
        return None  # /v1/threads/{id}/messages, and the messages of every other service
    return _route(host, before, "anthropic.messages", "chat")


def _gemini(protocol: str, operation: str, *, stream: bool = False) -> _Finder:
    def find(host: str, last: str, before: list[str]) -> Route | None:
        model = unquote(last.rpartition(":")[0])
        if not model or not before or before[-1] not in {"models", "tunedModels", "endpoints", "dynamic"}:
            return None
        return _route(host, before, protocol, operation, model=model, stream=stream)

    return find


def _predict(host: str, last: str, before: list[str]) -> Route | None:
    """Vertex predicts everything with this verb; of Google's own models, embeddings and images are meant here."""
    model = unquote(last.rpartition(":")[0])
    known = provider_of(host)
    in_studio = known is not None and known[0] == "gcp.gemini" and before[-1:] == ["models"]
    if before[-3:] != ["publishers", "google", "models"] and not in_studio:
        return None
    if "embedding" in model or "gecko" in model:
        return _route(host, before, "gemini.embed", "embeddings", model=model, stream=False)
    if model.startswith("imagen"):
        return _route(host, before, "gemini.images", "generate_content", model=model, stream=False)
    return None


_PUBLISHERS: Final = {
    "anthropic": "anthropic.messages",
    "mistralai": "openai.chat",
    "ai21": "openai.chat",
    "meta": "openai.chat",
}


def _raw_predict(*, stream: bool) -> _Finder:
    def find(host: str, last: str, before: list[str]) -> Route | None:
        publisher = before[-2] if len(before) > 2 and before[-1] == "models" else ""
        protocol = _PUBLISHERS.get(publisher)
        model = unquote(last.rpartition(":")[0])
        if protocol is None or model == "count-tokens":
            return None
        return _route(host, before, protocol, "chat", model=model, stream=stream)

    return find


def _bedrock(protocol: str, *, stream: bool) -> _Finder:
    def find(host: str, _last: str, before: list[str]) -> Route | None:
        if "model" not in before[:-1]:
            return None
        # an ARN holds slashes; clients encode them, but not all do
        model = unquote("/".join(before[before.index("model") + 1 :]))
        operation = "embeddings" if protocol == "bedrock.invoke" and "embed" in model else "chat"
        return _route(host, before, protocol, operation, model=model, stream=stream)

    return find


def _invocations(host: str, _last: str, before: list[str]) -> Route | None:
    """Databricks serves chat models at /serving-endpoints/{name}/invocations."""
    known = provider_of(host)
    if known is None or known[0] != "databricks" or "serving-endpoints" not in before:
        return None
    return _route(host, before, "openai.chat", "chat", model=unquote(before[-1]))


def _trailing_slash(host: str, _last: str, before: list[str]) -> Route | None:
    return None


FINDERS: Final[dict[str, _Finder]] = {
    "": _trailing_slash,
    "completions": _completions,
    "chat": _chat,
    "responses": _responses,
    "compact": _compact,
    "embeddings": _embeddings,
    "multimodalembeddings": _embeddings,
    "contextualizedembeddings": _embeddings,
    "embed": _embed,
    "generate": _generate,
    "generate_stream": _tgi(stream=True),
    "completion": _completion,
    "complete": _complete,
    "sonar": _sonar,
    "interactions": _interactions,
    "conversations": _conversations,
    "restart": _conversations,
    "ocr": _ocr,
    "decisions": _decisions,
    "systemone": _decisions,
    "agent": _agent,
    "chat_stream": _watsonx("openai.chat", "chat", stream=True),
    "generation": _watsonx("watsonx.generation", "text_completion", stream=False),
    "generation_stream": _watsonx("watsonx.generation", "text_completion", stream=True),
    "rerank": _rerank,
    "generations": _below("images", "openai.images", "generate_content"),
    "edits": _below("images", "openai.images", "generate_content"),
    "variations": _below("images", "openai.images", "generate_content"),
    "transcriptions": _below("audio", "openai.transcriptions", "generate_content"),
    "translations": _below("audio", "openai.transcriptions", "generate_content"),
    "speech": _below("audio", "openai.speech", "generate_content"),
    "messages": _messages,
    "generateContent": _gemini("gemini.generate", "generate_content"),
    "streamGenerateContent": _gemini("gemini.generate", "generate_content", stream=True),
    "embedContent": _gemini("gemini.embed", "embeddings"),
    "batchEmbedContents": _gemini("gemini.embed", "embeddings"),
    "predict": _predict,
    "rawPredict": _raw_predict(stream=False),
    "streamRawPredict": _raw_predict(stream=True),
    "converse": _bedrock("bedrock.converse", stream=False),
    "converse-stream": _bedrock("bedrock.converse", stream=True),
    "invoke": _bedrock("bedrock.invoke", stream=False),
    "invoke-with-response-stream": _bedrock("bedrock.invoke", stream=True),
    "invocations": _invocations,
}

# hosts with calls whose last segment says nothing: it is a conversation's id, or a model's name
HOST_FINDERS: Final[dict[str, _Finder]] = {
    "api.mistral.ai": _conversations,
    "api.cloudflare.com": _workers_ai,
    "gateway.ai.cloudflare.com": _workers_ai,
}
