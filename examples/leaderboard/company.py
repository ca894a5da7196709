"""The company: teams of people who work with an agent each, and an owner who may want to be first on a board.

Honest work is as untidy as it is: tries fail, some outcomes name no run, some are never told, some are reverted, some
agents work at night because customers do, one is left running by mistake. What is true is written beside it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from examples.leaderboard.books import DAY_S, HOUR_S, START_S, WEEK_S, Books, Person, Work
from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes import BUILT_IN

KIND_OF = {"coder": "deployment", "desk": "case", "writer": "document"}
TEAM_SIZE = 8


def people_of(rng: random.Random, size: int) -> list[Person]:
    """People in teams of eight; a team does one kind of work."""
    found = []
    teams = max(1, size // TEAM_SIZE)
    roles = [("coder", "coder", "coder", "desk", "writer")[team % 5] for team in range(teams)]
    luck = [rng.lognormvariate(0, 0.35) for _ in range(teams)]
    for number in range(size):
        team = number % teams
        usual = {"coder": 1.6, "desk": 9.0, "writer": 4.0}[roles[team]]
        rate = usual * luck[team] * rng.lognormvariate(0, 0.5)
        found.append(Person(number, f"u{number:03}", f"team-{team:02}", roles[team], rate))
    return found


def working_moment(rng: random.Random, week: int) -> float:
    """A moment in the working hours of a week."""
    return START_S + week * WEEK_S + rng.randrange(5) * DAY_S + (9 + rng.random() * 8) * HOUR_S


def usual_work(who: Person, rng: random.Random) -> Work:
    """What a try takes. Some have a large code base, most of which the cache has."""
    if who.role == "coder" and who.number % 11 == 3:
        return Work(calls=20, input=30_000, output=550, cached=0.85, model="medium")
    if who.role == "coder":
        return Work(calls=15, input=6_000, output=500, cached=0.5, model="medium")
    if who.role == "desk":
        return Work(calls=4, input=3_000, output=250, cached=0.4, model="small" if rng.random() < 0.7 else "medium")
    return Work(calls=8, input=5_000, output=900, cached=0.4, model="medium")


def deliver(books: Books, who: Person, week: int, mates: Sequence[Person], *, padded: float = 1.0) -> None:
    """One honest outcome: tries that fail, one that works, somebody who accepts it, and now and then a revert."""
    rng = books.rng
    at_s = working_moment(rng, week)
    work = usual_work(who, rng)
    if padded > 1:
        work = Work(work.calls, round(work.input * padded), work.output, 0.1, work.model)
    while rng.random() < 0.35:
        run = books.run(who, at_s, work, waste=padded > 2)
        at_s += 2 * HOUR_S
    run = books.run(who, at_s, work, waste=padded > 2)
    kind = KIND_OF[who.role]
    told = rng.random()
    if told > 0.96:
        books.value[who.user] += BUILT_IN[kind].weight * rng.lognormvariate(-0.06, 0.35)
        return
    done_s = run.last_s + rng.uniform(0.2, 20) * HOUR_S
    number = rng.getrandbits(40)
    service = f"svc-{who.team}-{rng.randrange(4)}"
    reverted = kind == "deployment" and rng.random() < 0.05
    accepted_by = {"case": f"customer-{number}", "document": rng.choice(mates).user}.get(kind, rng.choice(mates).user)
    books.outcomes.append(
        Outcome(
            kind,
            f"{service}#{number:x}",
            done_s,
            team=who.team,
            user=who.user,
            run=run.run if told < 0.85 else None,
            weight=BUILT_IN[kind].weight,
            fold=f"{service}:{number:x}",
            accepted_by=accepted_by,
            source="git" if kind == "deployment" else "http:desk",
            revoked_s=done_s + rng.uniform(1, 90) * HOUR_S if reverted else None,
        )
    )
    if not reverted:
        books.value[who.user] += BUILT_IN[kind].weight * rng.lognormvariate(-0.06, 0.35)


def play_honestly(books: Books, who: Person, mates: Sequence[Person], *, zeal: float = 1.0) -> None:
    """Eight weeks of work."""
    rng = books.rng
    for week in range(books.weeks):
        for _ in range(_poisson(rng, who.rate * zeal)):
            deliver(books, who, week, mates)
        for _ in range(_poisson(rng, 1.5)):  # questions that lead to nothing that anybody accepts
            books.run(who, working_moment(rng, week), Work(3, 2_000, 400, 0.2, "small"))


def left_running(books: Books, who: Person) -> None:
    """A watcher that somebody forgot."""
    first = books.rng.randrange(3) * 7
    for hour in range(first * 24, books.weeks * 7 * 24):
        books.run(who, START_S + hour * HOUR_S, Work(6, 2_500, 60, 0.0, "small"), agents=(who.helper,), waste=True)


def newcomer(books: Books, who: Person) -> None:
    """An agent of the last days, from which nothing has come yet."""
    for day in range(books.weeks * 7 - 6, books.weeks * 7 - 2):
        at_s = START_S + day * DAY_S + 10 * HOUR_S
        books.run(who, at_s, Work(60, 5_000, 500, 0.5, "medium", hours=5), agents=(f"new-{who.number:03}",))


def nameless(books: Books, who: Person) -> None:
    """A script outside of any scope: its calls are nobody's."""
    for week in range(books.weeks):
        books.run(who, working_moment(books.rng, week), Work(25, 3_000, 300, 0.1), anonymous=True)


def night_desk(books: Books, who: Person) -> None:
    """A bot that answers customers at all hours, and whose answers they accept."""
    rng = books.rng
    agent = f"night-desk-{who.number:03}"
    for hour in range(books.weeks * 7 * 24):
        at_s = START_S + hour * HOUR_S
        run = books.run(who, at_s, Work(6, 2_500, 150, 0.4, "small"), agents=(agent,))
        if rng.random() < 0.25:
            number = rng.getrandbits(40)
            books.outcomes.append(
                Outcome(
                    "case",
                    f"night#{number:x}",
                    run.last_s + 600,
                    team=who.team,
                    user=who.user,
                    run=run.run,
                    weight=BUILT_IN["case"].weight,
                    accepted_by=f"customer-{number}",
                    source="http:desk",
                )
            )
            books.value[who.user] += BUILT_IN["case"].weight * rng.lognormvariate(-0.06, 0.35)


def _poisson(rng: random.Random, mean: float) -> int:
    left, count = rng.expovariate(1.0), 0
    while left < mean:
        left += rng.expovariate(1.0)
        count += 1
    return count


def mates_of(people: Sequence[Person]) -> Mapping[str, list[Person]]:
    """The other people of each one's team."""
    teams: dict[str, list[Person]] = {}
    for who in people:
        teams.setdefault(who.team, []).append(who)
    return {who.user: [other for other in teams[who.team] if other is not who] or [who] for who in people}
