"""Which requests are model calls, and whose."""

from __future__ import annotations

import re

import pytest

from tokenmeter.wire import recognise
from tokenmeter.wire.hosts import HOSTS, HUGGINGFACE_PARTS
from tokenmeter.wire.routes import FINDERS

GEMINI = "generativelanguage.googleapis.com"
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"
WATSONX = "us-south.ml.cloud.ibm.com"
CLOUDFLARE = "/client/v4/accounts/a"
DASHSCOPE = "dashscope.aliyuncs.com"
AWS = "aws.bedrock"
AI_PLATFORM = "us-central1-aiplatform.googleapis.com"
VERTEX = "/v1/projects/p/locations/us-central1/publishers"
GOOGLE, CLAUDE = f"{VERTEX}/google/models", f"{VERTEX}/anthropic/models"

CALLS = [
    # host, path, protocol, provider, price provider
    ("api.openai.com", "/v1/chat/completions", "openai.chat", "openai", "openai"),
    ("eu.api.openai.com", "/v1/chat/completions", "openai.chat", "openai", "openai"),
    ("api.openai.com", "/v1/completions", "openai.completions", "openai", "openai"),
    ("api.openai.com", "/v1/responses", "openai.responses", "openai", "openai"),
    ("api.openai.com", "/v1/responses/compact", "openai.responses", "openai", "openai"),
    ("api.openai.com", "/v1/embeddings", "openai.embeddings", "openai", "openai"),
    ("api.openai.com", "/v1/decisions", "openai.decisions", "openai", "openai-decisions"),
    ("x.services.ai.azure.com", "/openai/v1/decisions", "openai.decisions", "azure.ai.openai", "azure"),
    ("api.typesafe.ai", "/v1/systemone", "openai.decisions", "typesafe", "typesafe"),
    ("api.perplexity.ai", "/v1/decisions", "openai.decisions", "perplexity", "perplexity"),
    ("api.perplexity.ai", "/v1/agent", "openai.responses", "perplexity", "perplexity"),
    ("openrouter.ai", "/api/v1/systemone", "openai.decisions", "openrouter", "openrouter"),
    (GEMINI, "/v1beta/decisions", "openai.decisions", "gcp.gemini", "google"),
    ("localhost:11434", "/v1/systemone", "openai.decisions", "ollama", None),
    ("api.openai.com", "/v1/images/generations", "openai.images", "openai", "openai"),
    ("api.openai.com", "/v1/images/edits", "openai.images", "openai", "openai"),
    ("api.openai.com", "/v1/images/variations", "openai.images", "openai", "openai"),
    ("api.openai.com", "/v1/audio/transcriptions", "openai.transcriptions", "openai", "openai"),
    ("api.openai.com", "/v1/audio/translations", "openai.transcriptions", "openai", "openai"),
    ("api.openai.com", "/v1/audio/speech", "openai.speech", "openai", "openai"),
    ("x.openai.azure.com", "/openai/deployments/d/chat/completions", "openai.chat", "azure.ai.openai", "azure"),
    ("x.openai.azure.com", "/openai/deployments/d/completions", "openai.completions", "azure.ai.openai", "azure"),
    ("x.openai.azure.com", "/openai/deployments/d/embeddings", "openai.embeddings", "azure.ai.openai", "azure"),
    ("x.openai.azure.com", "/openai/v1/responses", "openai.responses", "azure.ai.openai", "azure"),
    ("x.services.ai.azure.com", "/openai/v1/responses", "openai.responses", "azure.ai.openai", "azure"),
    ("x.services.ai.azure.com", "/anthropic/v1/messages", "anthropic.messages", "azure.ai.inference", "azure"),
    ("api.groq.com", "/openai/v1/chat/completions", "openai.chat", "groq", "groq"),
    ("api.mistral.ai", "/v1/chat/completions", "openai.chat", "mistral_ai", "mistral"),
    ("api.mistral.ai", "/v1/fim/completions", "openai.chat", "mistral_ai", "mistral"),
    ("api.deepseek.com", "/chat/completions", "openai.chat", "deepseek", "deepseek"),
    ("api.deepseek.com", "/beta/chat/completions", "openai.chat", "deepseek", "deepseek"),
    ("api.deepseek.com", "/responses", "openai.responses", "deepseek", "deepseek"),
    ("api.deepseek.com", "/anthropic/v1/messages", "anthropic.messages", "deepseek", "deepseek"),
    ("openrouter.ai", "/api/v1/chat/completions", "openai.chat", "openrouter", "openrouter"),
    ("api.together.xyz", "/v1/chat/completions", "openai.chat", "together_ai", "together"),
    ("api.cerebras.ai", "/v1/chat/completions", "openai.chat", "cerebras", "cerebras"),
    ("api.x.ai", "/v1/chat/completions", "openai.chat", "x_ai", "x-ai"),
    ("api.perplexity.ai", "/chat/completions", "openai.chat", "perplexity", "perplexity"),
    ("api.fireworks.ai", "/inference/v1/chat/completions", "openai.chat", "fireworks", "fireworks"),
    ("router.huggingface.co", "/together/v1/chat/completions", "openai.chat", "huggingface", "huggingface_together"),
    ("router.huggingface.co", "/v1/chat/completions", "openai.chat", "huggingface", "huggingface"),
    ("router.huggingface.co", "/novel/v1/chat/completions", "openai.chat", "huggingface", None),
    ("llm.example.org", "/bedrock/model/us.amazon.nova-lite-v1%3A0/converse", "bedrock.converse", AWS, "aws"),
    (
        "gateway.ai.cloudflare.com",
        "/v1/a/g/aws-bedrock/bedrock-runtime/us-east-1/model/m/invoke",
        "bedrock.invoke",
        "cloudflare",
        "aws",
    ),
    ("a-b.snowflakecomputing.com", "/api/v2/cortex/v1/chat/completions", "openai.chat", "snowflake", None),
    ("api.z.ai", "/api/paas/v4/chat/completions", "openai.chat", "z_ai", "zai"),
    ("api.writer.com", "/v1/chat", "openai.chat", "writer", None),
    ("localhost", "/v1/chat/completions", "openai.chat", "openai", None),
    ("localhost:8787", "/groq/openai/v1/chat/completions", "openai.chat", "openai", None),
    ("localhost", "/v1/completions", "openai.completions", "openai", None),
    ("gateway.example.org", "/team/llm/chat/completions/", "openai.chat", "openai", None),
    ("adb-1.azuredatabricks.net", "/serving-endpoints/m/invocations", "openai.chat", "databricks", "databricks"),
    ("api.anthropic.com", "/v1/messages", "anthropic.messages", "anthropic", "anthropic"),
    ("localhost", "/anthropic/v1/messages", "anthropic.messages", "anthropic", None),
    (AI_PLATFORM, CLAUDE + "/c@1:rawPredict", "anthropic.messages", "gcp.vertex_ai", "google"),
    ("aiplatform.googleapis.com", CLAUDE + "/c:streamRawPredict", "anthropic.messages", "gcp.vertex_ai", "google"),
    ("bedrock-mantle.us-east-1.api.aws", "/anthropic/v1/messages", "anthropic.messages", "aws.bedrock", "aws"),
    ("bedrock-mantle.us-east-1.api.aws", "/v1/responses", "openai.responses", "aws.bedrock", "aws"),
    (GEMINI, "/v1beta/models/g:generateContent", "gemini.generate", "gcp.gemini", "google"),
    (GEMINI, "/v1/models/g:streamGenerateContent", "gemini.generate", "gcp.gemini", "google"),
    (GEMINI, "/v1beta/models/g:embedContent", "gemini.embed", "gcp.gemini", "google"),
    (GEMINI, "/v1beta/models/g:batchEmbedContents", "gemini.embed", "gcp.gemini", "google"),
    (GEMINI, "/v1beta/openai/chat/completions", "openai.chat", "gcp.gemini", "google"),
    (AI_PLATFORM, GOOGLE + "/g:generateContent", "gemini.generate", "gcp.vertex_ai", "google"),
    (AI_PLATFORM, GOOGLE + "/text-embedding-5:predict", "gemini.embed", "gcp.vertex_ai", "google"),
    (
        "localhost",
        "/google-vertex/v1beta1/publishers/google/models/g:generateContent",
        "gemini.generate",
        "gcp.vertex_ai",
        None,
    ),
    (BEDROCK, "/model/m%3A0/converse", "bedrock.converse", "aws.bedrock", "aws"),
    (BEDROCK, "/model/m/converse-stream", "bedrock.converse", "aws.bedrock", "aws"),
    (BEDROCK, "/model/m/invoke", "bedrock.invoke", "aws.bedrock", "aws"),
    (BEDROCK, "/model/m/invoke-with-response-stream", "bedrock.invoke", "aws.bedrock", "aws"),
    ("vpce-0a-b.bedrock-runtime.us-east-1.vpce.amazonaws.com", "/model/m/converse", "bedrock.converse", AWS, "aws"),
    ("api.cohere.com", "/v1/chat", "cohere.chat", "cohere", "cohere"),
    ("api.cohere.com", "/v2/chat", "cohere.chat", "cohere", "cohere"),
    ("api.cohere.com", "/v2/embed", "cohere.embed", "cohere", "cohere"),
    ("api.cohere.com", "/v2/rerank", "cohere.rerank", "cohere", "cohere"),
    ("api.voyageai.com", "/v1/embeddings", "openai.embeddings", "voyage_ai", "voyageai"),
    ("api.voyageai.com", "/v1/rerank", "cohere.rerank", "voyage_ai", "voyageai"),
    (GEMINI, "/v1beta/interactions", "gemini.interactions", "gcp.gemini", "google"),
    (GEMINI, "/v1beta/models/imagen-4:predict", "gemini.images", "gcp.gemini", "google"),
    (
        "aiplatform.googleapis.com",
        "/v1beta1/projects/p/locations/global/interactions",
        "gemini.interactions",
        "gcp.vertex_ai",
        "google",
    ),
    ("localhost", "/v1beta/interactions", "gemini.interactions", "gcp.gemini", None),
    (AI_PLATFORM, f"{VERTEX}/ai21/models/jamba:rawPredict", "openai.chat", "gcp.vertex_ai", "google"),
    (AI_PLATFORM, f"{VERTEX}/meta/models/llama:streamRawPredict", "openai.chat", "gcp.vertex_ai", "google"),
    ("api.mistral.ai", "/v1/conversations", "mistral.conversations", "mistral_ai", "mistral"),
    ("api.mistral.ai", "/v1/conversations/conv_1", "mistral.conversations", "mistral_ai", "mistral"),
    ("api.mistral.ai", "/v1/conversations/conv_1/restart", "mistral.conversations", "mistral_ai", "mistral"),
    ("api.mistral.ai", "/v1/ocr", "mistral.ocr", "mistral_ai", "mistral"),
    (WATSONX, "/ml/v1/text/chat", "openai.chat", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/text/chat_stream", "openai.chat", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/deployments/d/text/chat", "openai.chat", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/text/generation", "watsonx.generation", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/deployments/d/text/generation_stream", "watsonx.generation", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/text/embeddings", "watsonx.embed", "ibm.watsonx.ai", None),
    (WATSONX, "/ml/v1/text/rerank", "watsonx.embed", "ibm.watsonx.ai", None),
    (DASHSCOPE, "/api/v1/services/aigc/text-generation/generation", "alibaba.generation", "alibaba", None),
    (DASHSCOPE, "/api/v1/services/embeddings/text-embedding/text-embedding", "alibaba.embed", "alibaba", None),
    (DASHSCOPE, "/api/v1/services/rerank/text-rerank/text-rerank", "alibaba.embed", "alibaba", None),
    (DASHSCOPE, "/compatible-api/v1/reranks", "cohere.rerank", "alibaba", None),
    (
        "w.ap-southeast-1.maas.aliyuncs.com",
        "/api/v1/services/aigc/multimodal-generation/generation",
        "alibaba.generation",
        "alibaba",
        None,
    ),
    ("api.minimax.io", "/v1/text/chatcompletion_v2", "openai.chat", "minimax", "minimax"),
    ("api.minimax.chat", "/v1/text/chatcompletion_v2", "openai.chat", "minimax", "minimax"),
    ("ark.cn-beijing.volces.com", "/api/v3/embeddings/multimodal", "openai.embeddings", "openai", None),
    ("ai.api.nvidia.com", "/v1/retrieval/nvidia/m/reranking", "cohere.rerank", "nvidia", None),
    ("nim.example.org", "/v1/ranking", "cohere.rerank", "cohere", None),
    ("a-b.snowflakecomputing.com", "/api/v2/cortex/inference:embed", "openai.embeddings", "snowflake", None),
    ("x.services.ai.azure.com", "/providers/mistral/azure/ocr", "mistral.ocr", "azure.ai.inference", "azure"),
    (AI_PLATFORM, f"{VERTEX}/mistralai/models/mistral-ocr-2505:rawPredict", "mistral.ocr", "gcp.vertex_ai", "google"),
    (AI_PLATFORM, f"{VERTEX}/mistralai/models/codestral-2:rawPredict", "openai.chat", "gcp.vertex_ai", "google"),
    ("gateway.ai.cloudflare.com", "/v1/a/g/cohere/v1/chat", "cohere.chat", "cloudflare", None),
    ("eastus.api.cognitive.microsoft.com", "/openai/v1/responses", "openai.responses", "azure.ai.openai", "azure"),
    ("x.openai.azure.us", "/openai/deployments/d/chat/completions", "openai.chat", "azure.ai.openai", "azure"),
    ("api.business.githubcopilot.com", "/chat/completions", "openai.chat", "github_copilot", "github-copilot"),
    ("gateway-us.pydantic.dev", "/proxy/openai/responses", "openai.responses", "pydantic_ai_gateway", None),
    ("localhost:8787", "/proxy/openai-responses/responses", "openai.responses", "openai", None),
    ("api.perplexity.ai", "/v1/sonar", "openai.chat", "perplexity", "perplexity"),
    ("a-b.snowflakecomputing.com", "/api/v2/cortex/inference:complete", "openai.chat", "snowflake", None),
    ("api.anthropic.com", "/v1/complete", "anthropic.complete", "anthropic", "anthropic"),
    ("api.cloudflare.com", CLOUDFLARE + "/ai/run/@cf/meta/llama-3", "cloudflare.run", "cloudflare", "cloudflare"),
    ("gateway.ai.cloudflare.com", "/v1/a/g/workers-ai/@cf/meta/llama-3", "cloudflare.run", "cloudflare", None),
    ("localhost:8080", "/completion", "llamacpp.completion", "llamacpp", None),
    ("localhost:8080", "/generate", "tgi.generate", "tgi", None),
    ("x.us-east-1.aws.endpoints.huggingface.cloud", "/generate_stream", "tgi.generate", "huggingface", None),
    ("chat.example.org", "/ollama/api/chat", "ollama.chat", "ollama", None),
    ("chat.example.org", "/ollama/api/generate", "ollama.generate", "ollama", None),
    ("chat.example.org", "/ollama/api/embed", "ollama.embed", "ollama", None),
    ("127.0.0.1", "/api/chat", "ollama.chat", "ollama", None),
    ("ollama", "/api/generate", "ollama.generate", "ollama", None),
    ("10.0.0.7", "/api/embed", "ollama.embed", "ollama", None),
    ("gpu.example.org:11434", "/api/embeddings", "ollama.embed", "ollama", None),
    ("ollama.com", "/v1/chat/completions", "openai.chat", "ollama", None),
]

NO_CALLS = [
    ("POST", "api.anthropic.com", "/v1/messages/count_tokens"),
    ("POST", "api.anthropic.com", "/v1/messages/batches"),
    ("POST", GEMINI, "/v1beta/models/g:countTokens"),
    ("POST", AI_PLATFORM, CLAUDE + "/count-tokens:rawPredict"),
    ("POST", GEMINI, "/v1beta/models/g:batchGenerateContent"),
    ("POST", "api.openai.com", "/v1/threads/thread_1/messages"),
    ("POST", "api.openai.com", "/v1/threads/v1x/runs"),
    ("POST", "api.openai.com", "/v1/responses/resp_1/cancel"),
    ("POST", "api.openai.com", "/v1/responses/input_tokens"),
    ("POST", "api.openai.com", "/v1/files"),
    ("POST", "api.openai.com", "/v1/batches"),
    ("POST", "api.openai.com", "/v1/moderations"),
    ("POST", "api.openai.com", "/v1/conversations"),
    ("POST", "api.mistral.ai", "/v1/conversations/conv_1/messages"),
    ("POST", "api.mistral.ai", "/v1/agents"),
    ("POST", "scan.example.org", "/v1/ocr"),
    ("POST", "api.mistral.ai", "/v1/files/conversations/x"),
    ("GET", "api.mistral.ai", "/v1/conversations/conv_1"),
    ("POST", "api.cloudflare.com", CLOUDFLARE + "/ai/models/search"),
    ("POST", "api.cloudflare.com", CLOUDFLARE + "/d1/database"),
    ("POST", "api.perplexity.ai", "/v1/async/sonar"),
    ("POST", GEMINI, "/v1beta/interactions/i1/cancel"),
    ("POST", "crm.example.org", "/api/v1/interactions"),
    ("POST", "a-b.snowflakecomputing.com", "/api/v2/databases/d:embed"),
    ("POST", DASHSCOPE, "/api/v1/services/aigc/text-generation/tokenization"),
    ("POST", DASHSCOPE, "/api/v1/services/aigc/text2image/image-synthesis"),
    ("POST", "app.example.org", "/api/v1/services/aigc/text-generation/generation"),
    ("POST", "app.example.org", "/v1/text/chatcompletion_v2"),
    ("POST", "app.example.org", "/sports/ranking"),
    ("POST", "x.services.ai.azure.com", "/vision/ocr"),
    ("POST", "tasks.example.org", "/v1/tasks/1/complete"),
    ("POST", "todo.example.org", "/v1/complete"),
    ("POST", "app.example.org", "/generate"),
    ("POST", "app.example.org", "/completion"),
    ("POST", "app.example.org", "/ml/v1/text/chat"),
    ("POST", "app.example.org", "/reports/text/generation"),
    ("POST", WATSONX, "/ml/v1/text/tokenization"),
    ("POST", "app.example.org", "/v1/ollama/chat"),
    ("GET", "api.openai.com", "/v1/models"),
    ("GET", "api.openai.com", "/v1/responses"),
    ("GET", "api.openai.com", "/v1/chat/completions"),
    ("GET", BEDROCK, "/model/m/invoke"),
    ("POST", "app.example.org", "/api/chat"),
    ("POST", "app.example.org", "/api/generate"),
    ("POST", "app.example.org", "/v1/chat"),
    ("POST", "forms.example.org", "/forms/12/responses"),
    ("POST", "todo.example.org", "/tasks/12/completions"),
    ("POST", "mail.example.org", "/v3/my.domain/messages"),
    ("POST", "aiplatform.googleapis.com", "/v1/projects/p/locations/l/endpoints/1:predict"),
    ("POST", "example.org", "/generations"),
    ("POST", "example.org", "/a:generateContent"),
    ("POST", "example.org", "/"),
    ("POST", "example.org", ""),
    ("POST", "example.org", "invoke"),
]


@pytest.mark.parametrize(("host", "path", "protocol", "provider", "price_provider"), CALLS)
def test_a_model_call(host: str, path: str, protocol: str, provider: str, price_provider: str | None) -> None:
    route = recognise("POST", host, path)
    assert route is not None
    assert (route.protocol, route.provider, route.price_provider) == (protocol, provider, price_provider)
    assert route.host == host


@pytest.mark.parametrize(("method", "host", "path"), NO_CALLS)
def test_no_model_call(method: str, host: str, path: str) -> None:
    assert recognise(method, host, path) is None


def test_the_path_names_model_and_stream() -> None:
    arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fx"
    bedrock = recognise("POST", BEDROCK, f"/model/{arn}/converse-stream")
    assert bedrock is not None
    assert bedrock.model == "arn:aws:bedrock:us-east-1:1:application-inference-profile/x"
    assert bedrock.stream is True
    gemini = recognise("POST", GEMINI, "/v1beta/models/gemini-2.5-pro:generateContent")
    assert gemini is not None
    assert (gemini.model, gemini.stream, gemini.operation) == ("gemini-2.5-pro", False, "generate_content")
    workers = recognise("POST", "api.cloudflare.com", CLOUDFLARE + "/ai/run/@cf/baai/bge-m3")
    assert workers is not None
    assert (workers.model, workers.operation) == ("@cf/baai/bge-m3", "embeddings")
    for path, model, stream in (
        ("/ml/v1/text/chat", None, False),
        ("/ml/v1/text/chat_stream", None, True),
        ("/ml/v1/deployments/d1/text/generation_stream", "d1", True),
    ):
        watsonx = recognise("POST", WATSONX, path)
        assert watsonx is not None
        assert (watsonx.model, watsonx.stream) == (model, stream)
    azure = recognise("POST", "x.openai.azure.com", "/openai/deployments/my-gpt/chat/completions")
    assert azure is not None
    assert (azure.model, azure.stream) == ("my-gpt", None)


def test_what_is_no_call_costs_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    class Watched(dict[str, object]):
        def __contains__(self, key: object) -> bool:
            looked_up.append(str(key))
            return super().__contains__(key)

    monkeypatch.setattr("tokenmeter.wire.routes.FINDERS", Watched(FINDERS))
    assert recognise("POST", "example.org", "/api/v1/users/12") is None
    assert looked_up == ["12"]


# hosts of the same service, and of the same prices, that the patterns of genai-prices leave out
ALIASES = {
    "api.together.ai": "https://api.together.xyz",
    "services.ai.azure.com": "https://x.services.ai.azure.com",
    "api.cognitive.microsoft.com": "https://x.openai.azure.com",
    "openai.azure.us": "https://x.openai.azure.com",
    "openai.azure.cn": "https://x.openai.azure.com",
    "githubcopilot.com": "https://api.githubcopilot.com",
    "api.minimax.chat": "https://api.minimax.io",
}


def test_hosts_are_those_that_genai_prices_knows() -> None:
    from genai_prices.data_snapshot import get_snapshot

    patterns = {provider.id: provider.api_pattern for provider in get_snapshot().providers}
    paths = {"databricks": "/serving-endpoints/m/invocations", "cloudflare": "/client/v4/accounts/1/ai/v1/x"}
    for host, (_, price_provider) in HOSTS.items():
        if price_provider is None:
            continue
        assert price_provider in patterns, host
        url = ALIASES.get(host, f"https://{host}") + paths.get(price_provider, "/")
        below = f"https://x.{host}" + paths.get(price_provider, "/")
        assert re.match(patterns[price_provider], url) or re.match(patterns[price_provider], below), host
    for part in HUGGINGFACE_PARTS:
        assert re.match(patterns[f"huggingface_{part}"], f"https://router.huggingface.co/{part}/v1"), part
    parts = {name.removeprefix("huggingface_") for name in patterns if name.startswith("huggingface_")}
    assert parts == HUGGINGFACE_PARTS


def test_no_host_that_genai_prices_would_price_goes_without() -> None:
    from genai_prices.data_snapshot import get_snapshot

    priced = {price_provider for _, price_provider in HOSTS.values() if price_provider}
    priced |= {"aws", "google", "openai-decisions"} | {f"huggingface_{part}" for part in HUGGINGFACE_PARTS}
    # no model calls of the protocols here: speech, an editor's log
    left_out = {"elevenlabs", "cursor"}
    assert {provider.id for provider in get_snapshot().providers} - priced == left_out
