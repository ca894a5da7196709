"""Who stands behind a host name: the name that OpenTelemetry gives the provider, and its id in genai-prices."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

# suffix of the host: (gen_ai.provider.name, provider id in genai-prices or None)
HOSTS: Final[dict[str, tuple[str, str | None]]] = {
    "api.openai.com": ("openai", "openai"),
    "openai.azure.com": ("azure.ai.openai", "azure"),
    "cognitiveservices.azure.com": ("azure.ai.openai", "azure"),
    "api.cognitive.microsoft.com": ("azure.ai.openai", "azure"),
    "openai.azure.us": ("azure.ai.openai", "azure"),
    "openai.azure.cn": ("azure.ai.openai", "azure"),
    "azure-api.net": ("azure.ai.openai", "azure"),
    "services.ai.azure.com": ("azure.ai.inference", "azure"),
    "models.ai.azure.com": ("azure.ai.inference", None),
    "models.inference.ai.azure.com": ("azure.ai.inference", None),
    "models.github.ai": ("github", None),
    "api.anthropic.com": ("anthropic", "anthropic"),
    "generativelanguage.googleapis.com": ("gcp.gemini", "google"),
    "api.groq.com": ("groq", "groq"),
    "api.mistral.ai": ("mistral_ai", "mistral"),
    "codestral.mistral.ai": ("mistral_ai", None),
    "api.deepseek.com": ("deepseek", "deepseek"),
    "api.x.ai": ("x_ai", "x-ai"),
    "api.perplexity.ai": ("perplexity", "perplexity"),
    "api.cohere.com": ("cohere", "cohere"),
    "api.cohere.ai": ("cohere", "cohere"),
    "openrouter.ai": ("openrouter", "openrouter"),
    "api.together.xyz": ("together_ai", "together"),
    "api.together.ai": ("together_ai", "together"),
    "api.cerebras.ai": ("cerebras", "cerebras"),
    "api.fireworks.ai": ("fireworks", "fireworks"),
    "router.huggingface.co": ("huggingface", None),
    "api-inference.huggingface.co": ("huggingface", None),
    "endpoints.huggingface.cloud": ("huggingface", None),
    "api.moonshot.ai": ("moonshot_ai", "moonshotai"),
    "api.moonshot.cn": ("moonshot_ai", "moonshotai"),
    "api.novita.ai": ("novita", "novita"),
    "api.voyageai.com": ("voyage_ai", "voyageai"),
    "api.z.ai": ("z_ai", "zai"),
    "open.bigmodel.cn": ("zhipu_ai", "zhipuai"),
    "api.minimax.io": ("minimax", "minimax"),
    "api.minimaxi.com": ("minimax", "minimax"),
    "api.minimax.chat": ("minimax", "minimax"),
    "api.avian.io": ("avian", "avian"),
    "api.arcee.ai": ("arcee", "arcee"),
    "inference.baseten.co": ("baseten", "baseten"),
    "api.doubleword.ai": ("doubleword", "doubleword"),
    "githubcopilot.com": ("github_copilot", "github-copilot"),
    "api.meta.ai": ("meta", "meta"),
    "modal.run": ("modal", "modal"),
    "modal.direct": ("modal", "modal"),
    "oai.endpoints.kepler.ai.cloud.ovh.net": ("ovhcloud", "ovhcloud"),
    "api.quicksilverpro.io": ("quicksilverpro", "quicksilverpro"),
    "api.typesafe.ai": ("typesafe", "typesafe"),
    "cloud.databricks.com": ("databricks", "databricks"),
    "azuredatabricks.net": ("databricks", "databricks"),
    "gcp.databricks.com": ("databricks", "databricks"),
    "api.cloudflare.com": ("cloudflare", "cloudflare"),
    "gateway.ai.cloudflare.com": ("cloudflare", None),
    "ollama.com": ("ollama", None),
    "api.sambanova.ai": ("sambanova", None),
    "api.hyperbolic.xyz": ("hyperbolic", None),
    "api.deepinfra.com": ("deepinfra", None),
    "api.studio.nebius.com": ("nebius", None),
    "api.tokenfactory.nebius.com": ("nebius", None),
    "api.nvidia.com": ("nvidia", None),
    "inference.heroku.com": ("heroku", None),
    "inference.crusoecloud.com": ("crusoe", None),
    "snowflakecomputing.com": ("snowflake", None),
    "api.writer.com": ("writer", None),
    "api.portkey.ai": ("portkey", None),
    "api.ai21.com": ("ai21", None),
    "api.jina.ai": ("jina", None),
    "dashscope.aliyuncs.com": ("alibaba", None),
    "dashscope-intl.aliyuncs.com": ("alibaba", None),
    "dashscope-us.aliyuncs.com": ("alibaba", None),
    "maas.aliyuncs.com": ("alibaba", None),
    "ml.cloud.ibm.com": ("ibm.watsonx.ai", None),
    "ai-gateway.vercel.sh": ("vercel", None),
    "gateway.pydantic.dev": ("pydantic_ai_gateway", None),
    "gateway-us.pydantic.dev": ("pydantic_ai_gateway", None),
    "gateway-eu.pydantic.dev": ("pydantic_ai_gateway", None),
    "inference.ai.siliconflow.cn": ("siliconflow", None),
    "api.siliconflow.cn": ("siliconflow", None),
    "api.lambda.ai": ("lambda", None),
    "api.venice.ai": ("venice", None),
}

# parts of Hugging Face's router, by the first segment of the path, that genai-prices has prices for
HUGGINGFACE_PARTS: Final = frozenset(
    {
        "cerebras",
        "fireworks-ai",
        "groq",
        "hyperbolic",
        "nebius",
        "novita",
        "nscale",
        "ovhcloud",
        "publicai",
        "sambanova",
        "together",
    }
)


@lru_cache(maxsize=512)
def provider_of(host: str) -> tuple[str, str | None] | None:
    """The two names for a host, ``None`` for one that nobody here knows; a port and regions are ignored."""
    name = _without_port(host)
    if name.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
        # the endpoint of a private network has a name of its own before the service's
        return ("aws.bedrock", "aws") if name.startswith("bedrock") or ".bedrock" in name else None
    if name.endswith("googleapis.com") and "aiplatform" in name:
        return "gcp.vertex_ai", "google"
    while name:
        if name in HOSTS:
            return HOSTS[name]
        name = name.partition(".")[2]
    if host.rpartition(":")[2] == "11434":
        return "ollama", None
    return None


@lru_cache(maxsize=512)
def may_serve_ollama(host: str) -> bool:
    """Whether Ollama's own paths, which many web applications have too, mean Ollama on this host.

    They do on machines of one's own: loopback and other bare addresses, names without a domain, Ollama's port.
    """
    name = _without_port(host)
    known = provider_of(host)
    if known is not None:
        return known[0] == "ollama"
    if "ollama" in name or "." not in name or name.endswith((".local", ".internal", ".lan", ".localhost")):
        return True
    import ipaddress  # only for hosts that nobody knows

    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    name = host.lower().rstrip(".")
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name
