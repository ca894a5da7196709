"""Sums stay exact however they are grouped, folded and read."""

from __future__ import annotations

from decimal import Decimal, localcontext

from hypothesis import given
from hypothesis import strategies as st

from tokenmeter.ledger import MemoryLedger
from tokenmeter.record import CallRecord, Status
from tokenmeter.usage import Usage


def row(
    agent: str | None = "a",
    run: str | None = "r",
    *,
    cost_nanos: int | None = 7,
    status: Status = "ok",
    user: str | None = None,
    estimated: bool = False,
    tags: dict[str, str] | None = None,
    warned: tuple[str, ...] = (),
    guards: tuple[str, ...] = (),
) -> CallRecord:
    usage = None if status in ("refused", "error") else Usage({"input_tokens": 3, "output_tokens": 2}, estimated)
    return CallRecord(
        id="1", at_s=0.0, duration_s=0.1, agent=agent, user=user, team=None, run=run, path=(), tags=tags or {},
        provider="openai", operation="chat", model="m", response_model=None, response_id=None, stream=False,
        status=status, error_type=None, http_status=200, finish_reasons=(), usage=usage,
        cost_nanos=None if usage is None else cost_nanos, price_source=None, estimated=estimated, output_cap=None,
        warned=warned, host="h", port=None, guards=guards,
    )  # fmt: skip


def test_none_asks_for_those_without() -> None:
    ledger = MemoryLedger()
    ledger.record(row("a"))
    ledger.record(row(None))
    assert ledger.spend().calls == 2
    assert ledger.spend(agent="a").calls == 1
    assert ledger.spend(agent=None).calls == 1
    assert ledger.spend(agent="b").calls == 0


def test_tags() -> None:
    ledger = MemoryLedger()
    ledger.record(row(tags={"feature": "x", "step": "1"}))
    ledger.record(row(tags={"feature": "y"}))
    assert ledger.spend(tags={"feature": "x"}).calls == 1
    assert ledger.spend(tags={"feature": "x", "step": "2"}).calls == 0


def test_what_is_refused_or_failed_is_no_call() -> None:
    ledger = MemoryLedger()
    for status in ("ok", "incomplete", "error", "refused", "refused"):
        ledger.record(row(status=status, estimated=status == "incomplete"))
    spend = ledger.spend()
    assert (spend.calls, spend.failed, spend.refused, spend.estimated_calls) == (2, 1, 2, 1)
    assert (spend.usd, spend.estimated_usd) == (Decimal("0.000000014"), Decimal("0.000000007"))


def test_what_would_have_been_refused_is_summed_apart() -> None:
    ledger = MemoryLedger()
    ledger.record(row())
    ledger.record(row(warned=("daily",)))
    ledger.record(row(guards=("max_polls:warn",)))
    ledger.record(row(guards=("max_calls_per_minute:brake",)))
    spend = ledger.spend()
    assert (spend.calls, spend.warned, spend.usd, spend.warned_usd) == (4, 2, 4 * spend.warned_usd / 2, spend.usd / 2)


def test_an_unpriced_call_is_not_a_free_one() -> None:
    ledger = MemoryLedger()
    ledger.record(row(cost_nanos=None))
    spend = ledger.spend()
    assert (spend.calls, spend.unpriced_calls, spend.input_tokens) == (1, 1, 3)


def test_money_is_exact_under_a_coarse_decimal_context() -> None:
    ledger = MemoryLedger()
    ledger.record(row(cost_nanos=123_456_789_012_345_678))
    with localcontext() as context:
        context.prec = 3
        assert str(ledger.spend().usd) == "123456789.012345678"


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 40), st.integers(0, 10**15)), max_size=120),
    st.integers(16, 40),
)
def test_folding_loses_no_money(calls: list[tuple[str | None, int, int]], max_groups: int) -> None:
    ledger = MemoryLedger(max_groups=max_groups)
    for agent, run, nanos in calls:
        ledger.record(row(agent, f"r{run}", cost_nanos=nanos))
    assert ledger.spend().usd == Decimal(sum(nanos for _, _, nanos in calls)).scaleb(-9)
    for name in ("a", "b", None):
        expected = sum(nanos for agent, _, nanos in calls if agent == name)
        assert ledger.spend(agent=name).usd == Decimal(expected).scaleb(-9)
    assert len(ledger.groups()) <= max_groups


def test_it_stays_bounded_when_every_call_is_of_somebody_else() -> None:
    ledger = MemoryLedger(max_groups=100)
    for number in range(5_000):
        ledger.record(row(f"a{number}", f"r{number}"))
    assert len(ledger.groups()) <= 100
    assert ledger.spend().usd == Decimal(7 * 5_000).scaleb(-9)
    assert ledger.spend(agent=None).calls == 0
    kept = sum(ledger.spend(agent=f"a{number}").calls for number in range(4_900, 5_000))
    assert 0 < kept < 5_000
    assert ledger.spend(agent="(other)", user="(other)", team="(other)", model=None).calls >= 4_900
    assert ledger.spend(provider=row().provider).calls == 5_000
