"""Is a request a model call? One look at the last segment of its path answers for all that isn't."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

from msgspec.structs import replace

from tokenmeter.wire.hosts import HUGGINGFACE_PARTS, may_serve_ollama, provider_of
from tokenmeter.wire.protocols import tally_of
from tokenmeter.wire.types import Route

_VERSION = re.compile(r"v\d+[a-z]*\d*")
_BASES: Final = frozenset(
    {"", "openai", "openai-chat", "openai-responses", "api", "beta", "codex", "compat", "openapi", "serving-endpoints"}
)
_PARTLY_PRICED: Final = {"databricks": {"serving-endpoints", "ai-gateway"}, "cloudflare": {"ai"}}


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
    *before, last = path.rstrip("/").split("/")
    finder = FINDERS.get(last.rpartition(":")[2]) or HOST_FINDERS.get(host)
    route = finder(_Address(host, before, last)) if finder is not None and last else None
    if route is not None:
        tally_of(route.protocol)  # imported now, for its answer may be read in a finalizer
    return route


class _Address(NamedTuple):
    """Where a request goes: the host, and the segments of the path; ``last`` is the one that found its finder."""

    host: str
    before: list[str]
    last: str

    @property
    def provider(self) -> str:
        """Whose host it is; empty for one that nobody here knows."""
        known = provider_of(self.host)
        return "" if known is None else known[0]

    @property
    def parent(self) -> str:
        return self.before[-1] if self.before else ""

    @property
    def is_versioned(self) -> bool:
        """Whether the parent is a version: ``v1``, ``v1beta``."""
        return _VERSION.fullmatch(self.parent) is not None

    @property
    def is_behind_base(self) -> bool:
        """Whether a common word stands where an API has its endpoints, not below some object of another service."""
        return self.parent in _BASES or self.is_versioned or self.provider != ""

    @property
    def is_ollamas(self) -> bool:
        """Whether these are Ollama's own paths, at the root of one's own machine or behind its name."""
        return self.before[-2:] == ["ollama", "api"] or (self.before == ["", "api"] and may_serve_ollama(self.host))

    @property
    def is_coheres(self) -> bool:
        return self.provider == "cohere" or (self.provider in {"", "cloudflare"} and "cohere" in self.before)

    @property
    def deployment(self) -> str | None:
        """Azure names the deployment in the path."""
        if "deployments" in self.before[:-1]:
            return unquote(self.before[self.before.index("deployments") + 1])
        return None

    @property
    def subject(self) -> str:
        """What a verb behind a colon is done to: the model of ``gemini-3:generateContent``."""
        return unquote(self.last.rpartition(":")[0])

    def route(self, protocol: str, operation: str, *, model: str | None = None, stream: bool | None = None) -> Route:
        """The route of a call to this address."""
        known = provider_of(self.host)
        if known is None:
            provider, price_provider = self._speaker(protocol), None
        else:
            provider, price_provider = known
            first = self.before[1] if len(self.before) > 1 else ""
            if provider == "huggingface" and first in HUGGINGFACE_PARTS and self.host.startswith("router."):
                price_provider = f"huggingface_{first}"
            elif provider == "azure.ai.inference" and "openai" in self.before:
                provider = "azure.ai.openai"
            elif provider == "huggingface" and first == "v1" and self.host.startswith("router."):
                price_provider = "huggingface"
            elif provider in _PARTLY_PRICED and not _PARTLY_PRICED[provider].intersection(self.before):
                price_provider = None
        if price_provider is None and protocol.startswith("bedrock."):
            price_provider = "aws"  # behind a gateway: nobody else speaks of models so
        return Route(protocol, provider, price_provider, operation, self.host, model, stream, known is not None)

    def _speaker(self, protocol: str) -> str:
        """The provider whose protocol is spoken on a host that nobody here knows."""
        family = protocol.partition(".")[0]
        if family == "gemini":
            return "gcp.vertex_ai" if "publishers" in self.before else "gcp.gemini"
        if family == "openai" and "deployments" in self.before and "openai" in self.before:
            return "azure.ai.openai"  # its own way to name a model, behind a gateway
        return {"bedrock": "aws.bedrock"}.get(family, family)


_Finder = Callable[[_Address], Route | None]


def _completions(to: _Address) -> Route | None:
    if to.parent in {"chat", "fim", "agents"}:
        operation = "text_completion" if to.parent == "fim" else "chat"
        return to.route("openai.chat", operation, model=to.deployment)
    if to.is_behind_base or "deployments" in to.before[-2:]:
        return to.route("openai.completions", "text_completion", model=to.deployment)
    return None


def _chat(to: _Address) -> Route | None:
    if to.parent == "api":
        return to.route("ollama.chat", "chat") if to.is_ollamas else None
    if to.parent == "text":
        return _watsonx_chat(to)
    if to.parent == "v2" or (to.parent == "v1" and to.is_coheres):
        return to.route("cohere.chat", "chat")
    if to.parent == "v1" and to.provider:
        return to.route("openai.chat", "chat")
    return None


def _watsonx(protocol: str, operation: str, *, stream: bool | None = None) -> _Finder:
    def find(to: _Address) -> Route | None:
        if to.provider != "ibm.watsonx.ai" or to.parent != "text":
            return None
        return to.route(protocol, operation, model=to.deployment, stream=stream)

    return find


_watsonx_chat = _watsonx("openai.chat", "chat", stream=False)
_watsonx_generation = _watsonx("watsonx.generation", "text_completion", stream=False)
_watsonx_embed = _watsonx("watsonx.embed", "embeddings")
_watsonx_rerank = _watsonx("watsonx.embed", "rerank")


def _dashscope(task: str, protocol: str, operation: str) -> _Finder:
    def find(to: _Address) -> Route | None:
        own = to.provider == "alibaba" and "services" in to.before and to.parent.endswith(task)
        return to.route(protocol, operation) if own else None

    return find


_dashscope_generation = _dashscope("-generation", "alibaba.generation", "chat")
_dashscope_embed = _dashscope("-embedding", "alibaba.embed", "embeddings")


def _generation(to: _Address) -> Route | None:
    return _watsonx_generation(to) or _dashscope_generation(to)


def _minimax(to: _Address) -> Route | None:
    return to.route("openai.chat", "chat") if to.provider == "minimax" and to.parent == "text" else None


def _responses(to: _Address) -> Route | None:
    return to.route("openai.responses", "chat") if to.is_behind_base and "threads" not in to.before else None


def _compact(to: _Address) -> Route | None:
    """Compaction is generated by a model and reports its usage: it is paid for like any response."""
    return _responses(_Address(to.host, to.before[:-1], to.parent)) if to.parent == "responses" else None


def _agent(to: _Address) -> Route | None:
    """Perplexity's own name for its responses."""
    return _responses(to) if to.provider == "perplexity" else None


def _embeddings(to: _Address) -> Route | None:
    if to.is_ollamas:
        return to.route("ollama.embed", "embeddings")
    return _watsonx_embed(to) or to.route("openai.embeddings", "embeddings", model=to.deployment)


def _embed(to: _Address) -> Route | None:
    if to.parent == "api":
        return to.route("ollama.embed", "embeddings") if to.is_ollamas else None
    if to.provider == "snowflake":
        return to.route("openai.embeddings", "embeddings") if to.parent == "cortex" else None
    return to.route("cohere.embed", "embeddings") if to.is_versioned else None


def _generate(to: _Address) -> Route | None:
    if to.is_ollamas:
        return to.route("ollama.generate", "text_completion")
    if to.parent == "v1" and to.is_coheres:
        return to.route("cohere.chat", "text_completion")
    return _tgi_generate(to)


def _tgi(*, stream: bool) -> _Finder:
    def find(to: _Address) -> Route | None:
        own = to.provider == "huggingface" or (not to.provider and may_serve_ollama(to.host))
        return to.route("tgi.generate", "text_completion", stream=stream) if own and to.before == [""] else None

    return find


_tgi_generate = _tgi(stream=False)


def _completion(to: _Address) -> Route | None:
    """llama.cpp's own, on machines of one's own."""
    own = to.before == [""] and may_serve_ollama(to.host)
    return to.route("llamacpp.completion", "text_completion") if own else None


def _complete(to: _Address) -> Route | None:
    if to.provider == "snowflake" and to.last == "inference:complete" and to.parent == "cortex":
        return to.route("openai.chat", "chat", stream=True)  # unless the body says otherwise
    if to.provider == "anthropic" and to.last == "complete" and to.is_versioned:
        return to.route("anthropic.complete", "text_completion")
    return None


def _sonar(to: _Address) -> Route | None:
    return to.route("openai.chat", "chat") if to.provider == "perplexity" and to.is_versioned else None


def _interactions(to: _Address) -> Route | None:
    googles = to.provider in {"gcp.gemini", "gcp.vertex_ai"}
    if googles or (to.is_versioned if to.provider else to.parent.startswith("v1beta")):
        return to.route("gemini.interactions", "generate_content")
    return None


def _conversations(to: _Address) -> Route | None:
    """Mistral's conversations: begun, gone on with under their id, or restarted."""
    path = [*to.before, to.last]
    at = path.index("conversations") if "conversations" in path else 0
    rest = path[at + 1 :]
    if to.provider != "mistral_ai" or not at or not _VERSION.fullmatch(path[at - 1]):
        return None
    if len(rest) < 2 or rest[1:] == ["restart"]:
        return to.route("mistral.conversations", "chat")
    return None


def _decisions(to: _Address) -> Route | None:
    """Typed answers to questions, at prices of their own: genai-prices lists OpenAI's under another provider."""
    if not to.is_behind_base:
        return None
    route = to.route("openai.decisions", "decisions")
    return replace(route, price_provider="openai-decisions") if route.price_provider == "openai" else route


def _ocr(to: _Address) -> Route | None:
    own = to.provider == "mistral_ai" and to.is_versioned
    on_azure = to.provider == "azure.ai.inference" and "mistral" in to.before
    return to.route("mistral.ocr", "generate_content") if own or on_azure else None


def _workers_ai(to: _Address) -> Route | None:
    """Cloudflare names the model in the path: …/ai/run/@cf/meta/llama-3."""
    before = to.before
    at = next((at for at, part in enumerate(before) if part in {"@cf", "@hf"}), 0)
    if before[max(at - 2, 0) : at] != ["ai", "run"] and before[max(at - 1, 0) : at] != ["workers-ai"]:
        return None
    model = unquote("/".join([*before[at:], to.last]))
    operation = "embeddings" if "embed" in model or "/bge-" in model else "chat"
    return to.route("cloudflare.run", operation, model=model)


def _rerank(to: _Address) -> Route | None:
    return _watsonx_rerank(to) or (to.route("cohere.rerank", "rerank") if to.is_behind_base else None)


def _ranking(to: _Address) -> Route | None:
    """NVIDIA's name for it, on its own host and in its containers."""
    own = to.provider == "nvidia" or (not to.provider and to.is_versioned)
    return to.route("cohere.rerank", "rerank") if own else None


def _below(parent: str, protocol: str, operation: str) -> _Finder:
    return lambda to: to.route(protocol, operation, model=to.deployment) if to.parent == parent else None


def _messages(to: _Address) -> Route | None:
    # not /v1/threads/{id}/messages, and the messages of every other service
    return to.route("anthropic.messages", "chat") if to.is_versioned else None


def _gemini(protocol: str, operation: str, *, stream: bool = False) -> _Finder:
    def find(to: _Address) -> Route | None:
        if not to.subject or to.parent not in {"models", "tunedModels", "endpoints", "dynamic"}:
            return None
        return to.route(protocol, operation, model=to.subject, stream=stream)

    return find


def _predict(to: _Address) -> Route | None:
    """Vertex predicts everything with this verb; of Google's own models, embeddings and images are meant here."""
    in_studio = to.provider == "gcp.gemini" and to.parent == "models"
    if to.before[-3:] != ["publishers", "google", "models"] and not in_studio:
        return None
    model = to.subject
    if "embedding" in model or "gecko" in model:
        return to.route("gemini.embed", "embeddings", model=model, stream=False)
    if model.startswith("imagen"):
        return to.route("gemini.images", "generate_content", model=model, stream=False)
    return None


_PUBLISHERS: Final = {
    "anthropic": "anthropic.messages",
    "mistralai": "openai.chat",
    "ai21": "openai.chat",
    "meta": "openai.chat",
}


def _raw_predict(*, stream: bool) -> _Finder:
    def find(to: _Address) -> Route | None:
        publisher = to.before[-2] if len(to.before) > 2 and to.parent == "models" else ""
        protocol = _PUBLISHERS.get(publisher)
        if protocol is None or to.subject == "count-tokens":
            return None
        if to.subject.startswith("mistral-ocr"):
            return to.route("mistral.ocr", "generate_content", model=to.subject, stream=False)
        return to.route(protocol, "chat", model=to.subject, stream=stream)

    return find


def _bedrock(protocol: str, *, stream: bool) -> _Finder:
    def find(to: _Address) -> Route | None:
        if "model" not in to.before[:-1]:
            return None
        # an ARN holds slashes; clients encode them, but not all do
        model = unquote("/".join(to.before[to.before.index("model") + 1 :]))
        operation = "embeddings" if protocol == "bedrock.invoke" and "embed" in model else "chat"
        return to.route(protocol, operation, model=model, stream=stream)

    return find


def _invocations(to: _Address) -> Route | None:
    """Databricks serves chat models at /serving-endpoints/{name}/invocations."""
    if to.provider != "databricks" or "serving-endpoints" not in to.before:
        return None
    return to.route("openai.chat", "chat", model=unquote(to.parent))


def _trailing_slash(_to: _Address) -> Route | None:
    """Has a path that ends with a slash looked at: its last segment is found without it."""
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
    "generation": _generation,
    "generation_stream": _watsonx("watsonx.generation", "text_completion", stream=True),
    "text-embedding": _dashscope_embed,
    "multimodal-embedding": _dashscope_embed,
    "text-rerank": _dashscope("-rerank", "alibaba.embed", "rerank"),
    "chatcompletion_v2": _minimax,
    "rerank": _rerank,
    "reranks": _rerank,
    "ranking": _ranking,
    "reranking": _ranking,
    "multimodal": _below("embeddings", "openai.embeddings", "embeddings"),
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
