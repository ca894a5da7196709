"""Real workloads at full speed over four processes, with money for a part of them: never more, and hardly less.

Each call has the prompt and the answer of a call of the trace, by their tokens, and a cap on its output.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from tests.fleet.conftest import KINDS, MakeUrl
from tests.fleet.fleet import FULL, LONG_S, Fleet, size
from tests.fleet.ledgers import look
from tests.support.shared import TRACES
from tokenmeter.budgets.assembly import assemble
from tokenmeter.testing import Reply, Request, ScriptedProvider

NAMES = {
    "azure_conv": "azure_conv.csv.gz",
    "azure_code": "azure_code.csv.gz",
    "mooncake": "mooncake_conversation.jsonl.gz",
}
CALLS = size(400, 1_000_000)
PROCESSES, THREADS = 4, 4
TOKEN = "tea "  # a token of a prompt
INPUT, OUTPUT = Decimal("123.457"), Decimal("1700.003")  # nanodollars a token
PART = Decimal("0.4")  # of what the whole trace costs
MOST_UNUSED = Decimal("0.02")
LONGEST_S = 3600.0


def _trace(name: str) -> list[tuple[int, int]]:
    """Input and output tokens, call by call."""
    path = TRACES / NAMES[name]
    with gzip.open(path, "rt") as file:
        if name == "mooncake":
            told = [json.loads(line) for line in file]
            calls = [(int(each["input_length"]), int(each["output_length"])) for each in told]
        else:
            calls = [(int(each["ContextTokens"]), int(each["GeneratedTokens"])) for each in csv.DictReader(file)]
    return calls[:CALLS]


def _answer(request: Request) -> Reply:
    tokens_in, tokens_out = (int(word) for word in request.json["user"].split())
    return Reply("So.", input_tokens=tokens_in, output_tokens=tokens_out)


CASES = list(product(KINDS, NAMES) if FULL else zip(KINDS, NAMES, strict=True))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_budget_that_binds(fleet: Fleet, fresh: MakeUrl, kind: str, name: str) -> None:
    if not (TRACES / NAMES[name]).exists():
        pytest.skip(f"no trace: {TRACES / NAMES[name]} is not there")
    calls = _trace(name)
    wanted = sum(tokens_in * INPUT + tokens_out * OUTPUT for tokens_in, tokens_out in calls)
    limit = int(wanted * PART)
    store = fresh()
    budgets: list[list[Any]] = [[f"${Decimal(limit) / 10**9:.9f}", {"name": "trace"}], ["1000000 calls", {}]]
    found: Counter[str] = Counter()
    with ScriptedProvider(_answer, max_requests=100) as provider:
        workers = [
            fleet.start(
                "replay",
                url=provider.openai_url,
                meter={"store": store, "budgets": budgets, "price": ["0.123457", "1.700003"]},
                # As whoever made the program capped it: not knowing the answer, at a round figure.
                calls=[[i, o, max(64, 1 << o.bit_length())] for i, o in calls[number::PROCESSES]],
                threads=THREADS,
                tokens=TOKEN,
            )
            for number in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.link.receive() == "ready"
        for worker in workers:
            worker.link.send("go")
        for worker in workers:
            found.update(worker.link.receive(LONGEST_S))
        billed = provider.wait_idle(LONG_S)
        fleet.dismiss()
    books = assemble(store)
    ledger = look(books)
    books.close()
    spent = ledger.spent_on("trace")
    unused = 1 - Decimal(spent) / limit
    print(
        f"\n### {name} on {kind}: {len(calls)} calls, budget ${limit / 10**9:.4f}, spent ${spent / 10**9:.4f}: "
        f"{unused:.3%} unused; {dict(found)}"
    )
    ledger.must_balance()
    ledger.must_hold_nothing()
    exact = billed.input_tokens * INPUT + billed.output_tokens * OUTPUT
    assert abs(spent - exact) <= Decimal("0.5") * billed.calls
    assert set(found) == {"ok", "BudgetExceeded"}
    assert found["ok"] == billed.calls
    assert spent <= limit
    assert unused <= MOST_UNUSED
    assert fleet.complaints == ""
