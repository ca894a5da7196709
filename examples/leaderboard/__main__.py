"""The command: ``python -m examples.leaderboard``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from statistics import mean

from examples.leaderboard.chart import chart
from examples.leaderboard.players import SETS
from examples.leaderboard.score import Company, Score, saving, score, simulate
from tokenmeter.money import usd


def main(argv: Sequence[str] | None = None) -> None:
    """Play, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.leaderboard", description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--weeks", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, metavar="N", help="measure over seeds 1 to N, for each set of ways")
    parser.add_argument("--ways", choices=sorted(SETS), help="one set of ways to play; default: the known ones, or all")
    parser.add_argument("--own-word", type=float, default=1.0, metavar="PART", help="the rule of this name; default: 1")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture of one company")
    parser.add_argument(
        "--live", action="store_true", help="a small company through a real meter, with and without limits"
    )
    arguments = parser.parse_args(argv)
    if arguments.live:
        show_live()
    elif arguments.seeds:
        for name in [arguments.ways] if arguments.ways else SETS:
            measure(name, arguments.seeds, arguments.people, arguments.weeks, arguments.own_word)
    else:
        company = simulate(
            arguments.seed, SETS[arguments.ways or "known"], size=arguments.people, weeks=arguments.weeks
        )
        if arguments.svg:
            arguments.svg.write_text(chart(company), encoding="utf-8")
        show(company)


def measure(name: str, seeds: int, people: int, weeks: int, own_word: float = 1.0) -> list[Score]:
    """The figures of each seed, their mean and the worst."""
    print(f"{name}: {len(SETS[name])} ways to play, {people} people, {weeks} weeks")
    print(f"{'seed':>6}{_head()}")
    found = []
    for seed in range(1, seeds + 1):
        figures = score(simulate(seed, SETS[name], size=people, weeks=weeks, own_word=own_word))
        found.append(figures)
        print(f"{seed:>6}{_line([getattr(figures, each) for each in _COLUMNS])}", flush=True)
    columns = [[float(getattr(figures, each)) for figures in found] for each in _COLUMNS]
    print(f"{'mean':>6}{_line([mean(column) for column in columns])}")
    print(f"{'least':>6}{_line([min(column) for column in columns])}\n")
    return found


_COLUMNS = [each.name for each in fields(Score) if each.name != "wasteful"]


def _head() -> str:
    return "".join(f"{name.replace('_', ' '):>18}" for name in _COLUMNS)


def _line(values: Sequence[float]) -> str:
    return "".join(f"{value:>18.3f}" for value in values)


def show(company: Company) -> None:
    """The board and the report, side by side; the simulation alone may name who played."""
    books, told, figures = company.books, company.report, score(company)
    print("THE BOARD (what the company had)           what they delivered, and how they played")
    best = sorted(company.people, key=lambda who: -books.tokens[who.user])[:10]
    of_value = sorted(company.people, key=lambda who: -books.value[who.user])
    place = {who.user: i + 1 for i, who in enumerate(of_value)}
    for i, who in enumerate(best, 1):
        way = company.ways.get(who.user, "works")
        tokens = f"{books.tokens[who.user] / 1e6:>8.1f} M tokens"
        print(f"{i:>3}. {who.user}  {tokens}        place {place[who.user]:>3}   {way}")
    print("\nTHE REPORT (what tokenmeter says)")
    print(f"  unattributed             ${usd(told.unattributed_nanos):>10.2f}   nobody answers for it")
    print(f"  led to outcomes          ${usd(told.linked_nanos):>10.2f}   {told.micros / 1e6:,.1f} units that count")
    print(f"  led to none              ${usd(told.fruitless_nanos):>10.2f}")
    print(f"  all                      ${usd(told.total_nanos):>10.2f}   ${usd(told.unit_nanos or 0):.2f} a unit\n")
    print("  team       people     spend     units    a unit  led to none")
    for row in told.by_team:
        if row.name is None:
            continue
        unit = f"${usd(row.unit_nanos):.2f}" if row.unit_nanos is not None else "none"
        spend, fruitless = usd(row.nanos), usd(row.fruitless_nanos or 0)
        print(
            f"  {row.name:<10} {row.people or 0:>6}  ${spend:>8.2f}  {row.units:>8.1f}  {unit:>8}    ${fruitless:>8.2f}"
        )
    apart: dict[str, int] = {}
    for each in told.apart:
        apart[each.verdict] = apart.get(each.verdict, 0) + 1
    print("\n  outcomes that don't count: " + ", ".join(f"{count} {name}" for name, count in sorted(apart.items())))
    kinds: dict[str, list[int]] = {}
    for finding in company.findings:
        kinds.setdefault(finding.kind, []).append(finding.money_nanos)
    print("\n  waste         agents     money")
    for kind, money in sorted(kinds.items()):
        print(f"  {kind:<12} {len(money):>7}  ${usd(sum(money)):>8.2f}")
    print(
        f"\nrank correlation with the true value: board {figures.board:.2f}, normalized {figures.normalized:.2f}"
        f"\nwasteful agents ({figures.wasteful}): precision {figures.precision:.2f}, recall {figures.recall:.2f}"
    )
    kept = saving(company)
    print(
        f"at 60 calls a run, 4 agents deep, no fourth repeat and $1 an agent and day: ${usd(kept.wasted_kept):.0f} of "
        f"${usd(kept.wasted):.0f}\nof wasteful agents would have been kept back, and ${usd(kept.worked_kept):.0f} of "
        f"${usd(kept.worked):.0f} of the others"
    )


def show_live() -> None:
    """The same week with and without limits."""
    from examples.leaderboard.live import play

    before, after = play(limits=False), play(limits=True)
    print(f"{'agent':<14}{'without':>10}{'with limits':>13}{'saved':>10}   refused")
    for agent, nanos in before.nanos_by_agent.items():
        left = after.nanos_by_agent.get(agent, 0)
        why = ", ".join(f"{count} {name}" for name, count in sorted(after.refused_by_agent.get(agent, {}).items()))
        print(f"{agent:<14}{usd(nanos):>10.3f}{usd(left):>13.3f}{usd(nanos - left):>10.3f}   {why}")
    saved = before.nanos - after.nanos
    all_ = f"{usd(before.nanos):>10.3f}{usd(after.nanos):>13.3f}{usd(saved):>10.3f}"
    print(f"{'all':<14}{all_}   {saved / before.nanos:.0%} saved")
    print(f"delivered: {before.delivered} without, {after.delivered} with limits")
    print(f"requests that the provider answered: {before.billed_calls} without, {after.billed_calls} with limits")
    for name, week in (("without", before), ("with", after)):
        print(f"cost of a unit {name} limits: ${usd(week.report.unit_nanos or 0):.4f}")


if __name__ == "__main__":
    main()
