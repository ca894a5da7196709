"""Finding a price: names, dates, contexts, the user's own prices; and loading nothing before it is needed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenmeter.pricing
from tokenmeter.pricing import DEFAULT_MAX_OUTPUT, Price, PriceBook, max_output_tokens
from tokenmeter.pricing.book import _CACHE_SIZE, _Dated

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SRC = Path(tokenmeter.pricing.__file__).parents[2]


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    set_custom_snapshot(None)


def test_importing_pricing_loads_neither_genai_prices_nor_a_tokenizer() -> None:
    code = (
        "import sys, tokenmeter.pricing as p\n"
        "book = p.PriceBook({'x': p.Price('1', '2')}); p.InputBound()\n"
        "bad = [m for m in ('genai_prices', 'pydantic', 'bpe_openai') if m in sys.modules]\n"
        "assert not bad, bad\n"
        "book.preload()\n"
        "assert 'genai_prices.data' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_of_known_providers(book: PriceBook) -> None:
    cases = {
        ("openai", "gpt-5-mini"): ("openai", "gpt-5-mini"),
        ("openai", "gpt-5-mini-2025-08-07"): ("openai", "gpt-5-mini"),
        ("anthropic", "claude-sonnet-4-5-20250929"): ("anthropic", "claude-sonnet-4-5"),
        ("azure", "gpt-35-turbo"): ("azure", "gpt-3.5-turbo"),  # borrowed from openai
        ("google", "models/gemini-2.5-flash"): ("google", "gemini-2.5-flash"),
        ("google", "claude-sonnet-4@20250514"): ("google", "claude-4-sonnet"),
        ("openrouter", "openai/gpt-5"): ("openrouter", "openai/gpt-5"),
    }
    found = {}
    for provider, model in cases:
        rate = book.rate(provider, model, at=NOW)
        found[provider, model] = (rate.provider_id, rate.model_id) if rate else None
    assert found == cases


@pytest.mark.parametrize(
    "model",
    [
        "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "eu.amazon.nova-lite-v1:0",
        "amazon.nova-lite-v1:0",
        "us.meta.llama3-1-8b-instruct-v1:0",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
        "openai.gpt-oss-120b",  # as the OpenAI-compatible endpoint calls it
    ],
)
def test_bedrock_ids_are_priced(book: PriceBook, model: str) -> None:
    assert book.rate("aws", model, at=NOW) is not None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("aws", "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/amazon.nova-lite-v1"),
        ("aws", "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc123"),
        ("azure", "my-deployment"),
        ("openai", "no-such-model"),
        ("no-such-provider", "gpt-5"),
        (None, "llama3.2"),
        (None, "my-deployment"),
        (None, "google/gemma-4-31b-it"),  # free at Google, unknown elsewhere
        ("openai", None),
        ("openai", ""),
        (None, None),
        ("openai", "gpt-5" * 1000),
    ],
)
def test_what_is_not_known_has_no_price(book: PriceBook, provider: str | None, model: str | None) -> None:
    assert book.rate(provider, model, at=NOW) is None


@pytest.mark.parametrize(
    ("model", "owner"),
    [("gpt-5-mini", "openai"), ("claude-sonnet-4-5", "anthropic"), ("openai/gpt-5", "openai")],
)
def test_an_unknown_host_is_priced_by_a_telling_name(book: PriceBook, model: str, owner: str) -> None:
    rate = book.rate(None, model, at=NOW)
    assert rate is not None
    assert rate.provider_id == owner


def test_the_suffix_of_a_model_says_who_serves_it_behind_a_router(book: PriceBook) -> None:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    rate = book.rate("huggingface", f"{model}:together", at=NOW)
    assert rate is not None
    assert rate.provider_id == "huggingface_together"
    for left_open in ("gpt-5", "gpt-5:cheapest"):
        rate = book.rate("huggingface", left_open, at=NOW)
        assert rate is not None
        assert rate.provider_id == "openai"
    assert book.rate("huggingface", model, at=NOW) is None


def test_every_model_of_the_snapshot_is_found_under_its_provider(book: PriceBook) -> None:
    """Found as genai-prices finds it, which need not be the entry whose id the name is."""
    for provider in get_snapshot().providers:
        for model in provider.models:
            expected = provider.find_model(model.id, all_providers=get_snapshot().providers)
            rate = book.rate(provider.id, model.id, at=NOW)
            if expected is not None:
                assert rate is not None
                assert rate.model_id == expected.id


def test_a_repeated_look_up_gives_the_same_object(book: PriceBook) -> None:
    first = book.rate("openai", "gpt-5-mini", at=NOW)
    assert first is book.rate("openai", "gpt-5-mini", at=NOW + timedelta(seconds=1))
    assert first is book.rate("openai", "gpt-5-mini", at=NOW, context={"service_tier": "auto", "other": "x"})
    assert first is not None
    assert first.source == "genai-prices 0.2.3" or first.source.startswith("genai-prices ")


def test_tiers_and_batch_change_the_price(book: PriceBook) -> None:
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    costs = {}
    for context in ({}, {"service_tier": "flex"}, {"service_tier": "priority"}, {"processing": "batch"}):
        rate = book.rate("openai", "gpt-5", at=NOW, context=context)
        assert rate is not None
        costs["".join(context.values())] = rate.cost_nanos(usage)
    assert costs == {"": 1_250_000_000, "flex": 625_000_000, "priority": 2_500_000_000, "batch": 625_000_000}


def test_a_borrowed_price_has_no_tiers_of_its_lender(book: PriceBook) -> None:
    plain = book.rate("azure", "gpt-35-turbo", at=NOW)
    batch = book.rate("azure", "gpt-35-turbo", at=NOW, context={"processing": "batch"})
    assert plain is not None
    assert batch is not None
    assert plain.cost_nanos({"input_tokens": 10**6}) == batch.cost_nanos({"input_tokens": 10**6})


@cache
def dated() -> list[tuple[Provider, ModelInfo]]:
    return [
        (provider, model)
        for provider in get_snapshot().providers
        for model in provider.models
        if _Dated(provider, model, {}, "").changes
    ]


@settings(deadline=None)
@given(st.data())
def test_dated_prices_follow_the_moment(data: st.DataObject) -> None:
    """Asked in any order, at the very edges and in any time zone, the price is that of genai-prices."""
    provider, model = data.draw(st.sampled_from(dated()))
    entry = _Dated(provider, model, {}, "")
    edges = [change for change in entry.changes if isinstance(change, datetime)]
    times = st.integers(1_672_531_200, 1_830_297_600).map(lambda second: datetime.fromtimestamp(second, UTC))
    if edges:
        near = st.builds(
            lambda edge, seconds: edge + timedelta(seconds=seconds),
            st.sampled_from(edges),
            st.integers(-2, 2),
        )
        times |= near
    zones = st.builds(lambda hours: timezone(timedelta(hours=hours)), st.integers(-12, 12))
    for moment in data.draw(st.lists(times, min_size=1, max_size=12)):
        at = moment.astimezone(data.draw(zones))
        rate = entry.at(at)
        price = model.get_prices(at).calc_price({"input_tokens": 10**6, "output_tokens": 10**6})
        counts = {"input_tokens": 10**6, "output_tokens": 10**6}
        assert rate.cost_nanos(counts) == int(price["total_price"].quantize(Decimal("1e-9")).scaleb(9))


def test_prices_by_the_time_of_day_change_at_the_very_second(book: PriceBook) -> None:
    models = [
        (provider, model)
        for provider, model in dated()
        if any(isinstance(c, tuple) for c in _Dated(provider, model, {}, "").changes)
    ]
    assert models
    checked = 0
    for provider, model in models:
        entry = _Dated(provider, model, {}, "")
        for change in entry.changes:
            if isinstance(change, tuple):
                for edge in change:
                    moment = datetime.combine(NOW.date(), edge, tzinfo=edge.tzinfo or UTC)
                    for at in (moment - timedelta(microseconds=1), moment, moment + timedelta(hours=1)):
                        price = model.get_prices(at).calc_price({"input_tokens": 10**6})
                        cost = entry.at(at).cost_nanos({"input_tokens": 10**6})
                        assert cost == int(price["total_price"].scaleb(9))
                        checked += 1
    assert checked > 0


def test_a_naive_moment_is_utc(book: PriceBook) -> None:
    assert book.rate("deepseek", "deepseek-chat", at=NOW.replace(tzinfo=None)) is book.rate(
        "deepseek", "deepseek-chat", at=NOW
    )


def a_snapshot(price: str) -> DataSnapshot:
    model = ModelInfo(id="gpt-5-mini", match=ClauseEquals("gpt-5-mini"), prices=ModelPrice(input_mtok=Decimal(price)))
    provider = Provider(id="openai", name="OpenAI", api_pattern="https://x", models=[model])
    return DataSnapshot(providers=[provider], from_auto_update=True)


@pytest.mark.usefixtures("restored")
def test_newer_data_is_picked_up_at_once() -> None:
    book = PriceBook()
    before = book.rate("openai", "gpt-5-mini", at=NOW)
    set_custom_snapshot(a_snapshot("7"))
    rate = book.rate("openai", "gpt-5-mini", at=NOW)
    assert rate is not None
    assert rate.cost_nanos({"input_tokens": 1_000_000}) == 7_000_000_000
    set_custom_snapshot(a_snapshot("8"))
    rate = book.rate("openai", "gpt-5-mini", at=NOW)
    assert rate is not None
    assert rate.cost_nanos({"input_tokens": 1_000_000}) == 8_000_000_000
    set_custom_snapshot(None)
    after = book.rate("openai", "gpt-5-mini", at=NOW)
    assert before is not None
    assert after is not None
    assert after.cost_nanos({"input_tokens": 10**6}) == before.cost_nanos({"input_tokens": 10**6})


def test_the_cache_stays_bounded() -> None:
    book = PriceBook({"never": Price("1", "2")})
    for index in range(_CACHE_SIZE + 50):
        book.rate("groq", f"no-such-model-{index}", at=NOW)
    assert len(book._state[2]) <= _CACHE_SIZE


def test_threads_that_ask_at_once_get_the_same_answer() -> None:
    book = PriceBook()
    start = threading.Barrier(8)
    costs: list[int] = []

    def ask() -> None:
        start.wait()
        rate = book.rate("openai", "gpt-5-mini", at=NOW)
        assert rate is not None
        costs.append(rate.cost_nanos({"input_tokens": 1_000_000}))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert costs == [250_000_000] * 8


def test_overrides_win_exactly_then_by_pattern_then_by_the_listed_name() -> None:
    book = PriceBook(
        {
            "openai/gpt-5": Price("1", "1"),
            "GPT-5-mini": Price("2", "2"),
            "my-*": Price("3", "3"),
            "azure/*": Price("4", "4", max_output_tokens=77),
            "deploy/ment": Price("5", "5"),
        }
    )

    def per_mtok(provider: str | None, model: str) -> int | None:
        rate = book.rate(provider, model, at=NOW)
        return rate.cost_nanos({"input_tokens": 10**6}) // 10**9 if rate and rate.source == "override" else None

    assert per_mtok("openai", "gpt-5") == 1
    assert per_mtok("openai", "gpt-5-2025-08-07") == 1  # genai-prices lists it as gpt-5
    assert per_mtok("openai", "gpt-5-mini") == 2
    assert per_mtok(None, "gpt-5-mini") == 2
    assert per_mtok(None, "my-llama") == 3
    assert per_mtok("azure", "my-llama") == 3
    assert per_mtok("azure", "anything") == 4
    assert per_mtok(None, "deploy/ment") == 5
    assert per_mtok("openai", "gpt-5-nano") is None


def test_what_a_model_can_produce(book: PriceBook) -> None:
    mine = PriceBook({"gpt-5": Price("1", "1"), "capped": Price("1", "1", max_output_tokens=77)})
    rate = book.rate("openai", "gpt-5", at=NOW)
    assert rate is not None
    assert max_output_tokens(rate) == rate.context_window == 400_000
    assert max_output_tokens(mine.rate("openai", "gpt-5", at=NOW)) == 400_000
    assert max_output_tokens(mine.rate(None, "capped", at=NOW)) == 77
    assert max_output_tokens(None) == DEFAULT_MAX_OUTPUT


def test_a_name_that_only_one_provider_lists_is_priced_on_an_unknown_host() -> None:
    book = PriceBook()
    at = datetime(2026, 11, 1, tzinfo=UTC)
    for model, provider in (("text-embedding-3-small", "openai"), ("llama-3.3-70b-versatile", "groq")):
        rate = book.rate(None, model, at=at)
        assert rate is not None
        assert rate.provider_id == provider
    assert book.rate(None, "byte-llama", at=at) is None
