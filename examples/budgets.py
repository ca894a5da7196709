"""Budgets: held before the request goes out, so that a runaway agent is stopped before the money is spent."""

from openai import OpenAI

import tokenmeter
from tokenmeter import Budget
from tokenmeter.testing import Reply, ScriptedProvider

budgets = [
    Budget("$0.05", per="day", scope="agent", name="agent-day", thresholds=()),
    Budget("200k tokens", per="month", scope="team", name="team-month"),
    Budget("50 calls", per="run", match={"agent": "mail-*"}, name="mail-run"),
    Budget("$1", per="hour", scope="user", on_exceed="warn", name="user-hour"),
]

with (
    ScriptedProvider(Reply("A summary of the summary.", input_tokens=800, output_tokens=180)) as provider,
    tokenmeter.Meter(budgets) as meter,
):
    # For the real thing leave base_url and api_key out.
    client = meter.wrap(OpenAI(base_url=provider.openai_url, api_key="none"))
    mail = "Thank you for the summary of the summary. " * 90

    with meter.agent("mail-triage", user="alice", team="support"):
        try:
            while True:  # each summary is a new mail in the inbox
                client.chat.completions.create(
                    model="gpt-5", max_completion_tokens=250, messages=[{"role": "user", "content": mail}]
                )
        except tokenmeter.BudgetExceeded as refusal:
            print(f"refused by {refusal.budget!r} ({refusal.scope})")
            print(f"  limit ${refusal.limit:f}, spent ${refusal.spent:f}, this call needs ${refusal.needed:f}")

    print(f"requests that reached the provider: {provider.received}")
    for left in meter.remaining(agent="mail-triage", user="alice", team="support"):
        print(f"{left.budget} ({left.scope}): {left.left} of {left.limit} {left.unit} left")
