"""Ways to look good, one function each, in three sets.

`KNOWN` are those that the rules and their thresholds were set with. With `MORE` it was seen what the rules lacked, and
they were mended: second accounts, rings. `LATER` were written after that, and one rule came of them: accounts which the
directory doesn't know can't accept each other's. What they still win is a limit of the method; the documentation says
so.

A player goes on working, with less zeal, and does this besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from examples.leaderboard.books import DAY_S, HOUR_S, START_S, Books, Person, Work
from examples.leaderboard.company import deliver, play_honestly, usual_work, working_moment
from tokenmeter.ledger.views import Outcome, RunSum
from tokenmeter.outcomes import BUILT_IN


@dataclass(frozen=True, slots=True)
class Table:
    """What a player sees: the books, the company, and the other people of the team."""

    books: Books
    who: Person
    mates: Sequence[Person]
    everybody: Sequence[Person]


Way = Callable[[Table], None]


def _days(table: Table) -> range:
    return range(table.books.rng.randrange(3) * 7, table.books.weeks * 7)


def _claim(table: Table, at_s: float, run: str | None, **fields: object) -> Outcome:
    number = table.books.rng.getrandbits(40)
    usual = Outcome(
        "deployment", f"svc-{table.who.team}-0#{number:x}", at_s, team=table.who.team, user=table.who.user, run=run,
        accepted_by=table.books.rng.choice(table.mates).user,
    )  # fmt: skip
    found = replace(usual, **fields)  # type: ignore[arg-type]
    table.books.outcomes.append(found)
    return found


def _fake_run(table: Table, at_s: float) -> RunSum:
    return table.books.run(table.who, at_s, Work(20, 3_000, 300, 0.2), agents=(table.who.helper,), waste=True)


# -- the ones that the rules were set with


def triage(table: Table) -> None:
    """Mail is triaged in endless cycles: the same mails again and again."""
    books, who = table.books, table.who
    for day in _days(table):
        for _ in range(books.about(5)):
            at_s = START_S + day * DAY_S + books.rng.uniform(8, 22) * HOUR_S
            run = books.run(who, at_s, Work(70, 2_500, 90, 0.1, "small"), agents=(who.helper,), waste=True)
            books.repeat(who.helper, who.team, run, of=run.calls // 2)


def chat(table: Table) -> None:
    """Two agents talk to each other."""
    books, who = table.books, table.who
    other = f"{who.helper}-friend"
    for day in _days(table):
        if day % 7 >= 5:
            continue
        at_s = START_S + day * DAY_S + books.rng.uniform(9, 18) * HOUR_S
        books.run(who, at_s, Work(160, 3_000, 200, 0.2, "small", depth=8), agents=(who.helper, other), waste=True)


def padding(table: Table) -> None:
    """Prompts are filled up from the third week on."""
    rng = table.books.rng
    for week in range(table.books.weeks):
        for _ in range(max(1, round(table.who.rate * 0.7 * rng.lognormvariate(0, 0.3)))):
            deliver(table.books, table.who, week, table.mates, padded=1.0 if week < 2 else 9.0)


def oversized(table: Table) -> None:
    """The dearest model sorts mails into two piles."""
    books, who = table.books, table.who
    for day in _days(table):
        if day % 7 < 5:
            at_s = START_S + day * DAY_S + 10 * HOUR_S
            books.run(who, at_s, Work(30, 900, 8, 0.0, "large", hours=6), agents=(who.helper,), waste=True)


def background(table: Table) -> None:
    """Something runs at all hours that nobody reads."""
    books, who = table.books, table.who
    for day in _days(table):
        for hour in range(24):
            at_s = START_S + day * DAY_S + hour * HOUR_S
            books.run(who, at_s, Work(8, 2_000, 60, 0.0, "small"), agents=(who.helper,), waste=True)


def cut_small(table: Table) -> None:
    """One change is claimed in a dozen pieces."""
    books, who = table.books, table.who
    for week in range(books.weeks):
        at_s = working_moment(books.rng, week)
        run = books.run(who, at_s, usual_work(who, books.rng))
        books.value[who.user] += BUILT_IN["deployment"].weight
        for i in range(12):
            other = run if i % 2 else books.run(who, run.last_s, Work(1, 800, 60, 0.0, "small", hours=0.1))
            _claim(table, other.last_s + 600 + i * 900, other.run)


def claim_others(table: Table) -> None:
    """The runs of others are claimed."""
    books, rng = table.books, table.books.rng
    for _ in range(30):
        run = rng.choice(books.runs)
        if run.user != table.who.user:
            _claim(table, run.last_s + 3_000, run.run)


def deploy_and_revert(table: Table) -> None:
    """Deployed in the morning, reverted in the evening."""
    books, who = table.books, table.who
    for day in _days(table):
        if day % 7 < 5:
            at_s = START_S + day * DAY_S + 9 * HOUR_S
            run = books.run(who, at_s, Work(20, 3_000, 300, 0.3), agents=(who.helper,), waste=True)
            done_s = run.last_s + 1_200
            _claim(table, done_s, run.run, source="git", fold=f"churn:{run.run}", revoked_s=done_s + 6 * HOUR_S)


KNOWN: tuple[Way, ...] = (
    triage, chat, padding, oversized, background, cut_small, claim_others, deploy_and_revert,
)  # fmt: skip


# -- the ones that showed what was missing


def accept_oneself(table: Table) -> None:
    """The spender, or the agent itself, accepts it."""
    for week in range(table.books.weeks):
        for i in range(4):
            run = _fake_run(table, working_moment(table.books.rng, week))
            by = table.who.helper if i % 2 else f"{table.who.user}@example.com"
            _claim(table, run.last_s + 600, run.run, accepted_by=by, fold=run.run)


def accept_each_other(table: Table) -> None:
    """Two friends accept each other's empty tasks."""
    friend = table.mates[0]
    for week in range(table.books.weeks):
        for _ in range(4):
            at_s = working_moment(table.books.rng, week)
            for one, other in ((table.who, friend), (friend, table.who)):
                run = table.books.run(one, at_s, Work(12, 3_000, 300, 0.2), agents=(one.helper,), waste=True)
                _claim(table, run.last_s + 600, run.run, kind="task", user=one.user, accepted_by=other.user)


def sock_puppet(table: Table) -> None:
    """A second account accepts, for nobody else."""
    for week in range(table.books.weeks):
        for _ in range(5):
            run = _fake_run(table, working_moment(table.books.rng, week))
            _claim(table, run.last_s + 600, run.run, kind="task", accepted_by=f"qa-of-{table.who.number}")


def heavy(table: Table) -> None:
    """Weights of a hundred, and kinds that nobody declared, with next to no confidence."""
    for week in range(table.books.weeks):
        run = _fake_run(table, working_moment(table.books.rng, week))
        _claim(table, run.last_s + 600, run.run, weight=100.0, confidence=0.05)
        _claim(table, run.last_s + 700, run.run, kind="strategic-synergy", weight=100.0)


def many_kinds(table: Table) -> None:
    """One change as commit, merge, release and deployment."""
    books, who = table.books, table.who
    for week in range(books.weeks):
        run = books.run(who, working_moment(books.rng, week), usual_work(who, books.rng))
        books.value[who.user] += BUILT_IN["deployment"].weight
        for kind in ("commit", "merge", "release", "deployment", "checks"):
            _claim(table, run.last_s + 900, run.run, kind=kind, weight=BUILT_IN[kind].weight)


def backdate(table: Table) -> None:
    """Claims that come before their runs."""
    for week in range(1, table.books.weeks):
        run = _fake_run(table, working_moment(table.books.rng, week))
        for i in range(3):
            _claim(table, run.first_s - DAY_S * (i + 1), run.run)


def claim_without_spend(table: Table) -> None:
    """Claims out of nothing: runs that aren't there, teams that never called."""
    for week in range(table.books.weeks):
        for _ in range(5):
            at_s = working_moment(table.books.rng, week)
            _claim(table, at_s, "no-such-run", user=None, team=f"{table.who.team}-skunkworks")


def anonymous(table: Table) -> None:
    """The costs are run without a name, so that they are nobody's."""
    for week in range(table.books.weeks):
        for _ in range(5):
            table.books.run(table.who, working_moment(table.books.rng, week), Work(60, 3_000, 300), anonymous=True)


def charge_others(table: Table) -> None:
    """The costs are charged to another team."""
    other = table.everybody[(table.who.number + 1) % len(table.everybody)].team
    for week in range(table.books.weeks):
        for _ in range(4):
            work = Work(80, 3_000, 300, 0.2)
            table.books.run(
                table.who,
                working_moment(table.books.rng, week),
                work,
                agents=(table.who.helper,),
                waste=True,
                team=other,
            )


def steal_changes(table: Table) -> None:
    """The changes of others are claimed by their own name, for a run of one's own."""
    books = table.books
    others = [each for each in books.outcomes if each.fold and each.user not in (None, table.who.user)]
    for each in books.rng.sample(others, min(25, len(others))):
        run = _fake_run(table, each.at_s - 2 * HOUR_S)
        _claim(table, max(each.at_s, run.last_s), run.run, fold=each.fold, kind=each.kind)


def redeploy(table: Table) -> None:
    """Deployed, reverted and deployed again, so that it counts thrice."""
    books, who = table.books, table.who
    for week in range(books.weeks):
        run = books.run(who, working_moment(books.rng, week), usual_work(who, books.rng))
        fold = f"again:{run.run}"
        books.value[who.user] += BUILT_IN["deployment"].weight
        for i in range(3):
            at_s = run.last_s + 600 + i * 7_200
            _claim(table, at_s, run.run, source="git", fold=fold, revoked_s=at_s + 3_600 if i < 2 else None)


def duplicate_work(table: Table) -> None:
    """Many runs ask the same."""
    books, who = table.books, table.who
    for day in _days(table):
        at_s = START_S + day * DAY_S + books.rng.uniform(8, 20) * HOUR_S
        run = books.run(who, at_s, Work(30, 4_000, 250, 0.0), agents=(who.helper,), waste=True)
        books.repeat(who.helper, who.team, run, of=run.calls, runs=12)


def burn_and_fail(table: Table) -> None:
    """Streams that are left half-way, tries that fail."""
    books, who = table.books, table.who
    for day in _days(table):
        at_s = START_S + day * DAY_S + books.rng.uniform(8, 20) * HOUR_S
        books.run(who, at_s, Work(25, 4_000, 700, 0.0, failed=20, incomplete=15), agents=(who.helper,), waste=True)


def slow_loop(table: Table) -> None:
    """Loops that stay under the limits, in working hours, never the same twice."""
    books, who = table.books, table.who
    for day in _days(table):
        if day % 7 < 5:
            for _ in range(6):
                at_s = START_S + day * DAY_S + books.rng.uniform(9, 17) * HOUR_S
                books.run(who, at_s, Work(14, 3_000, 250, 0.2), agents=(who.helper,), waste=True)


MORE: tuple[Way, ...] = (
    accept_oneself, accept_each_other, sock_puppet, heavy, many_kinds, backdate, claim_without_spend, anonymous,
    charge_others, steal_changes, redeploy, duplicate_work, burn_and_fail, slow_loop,
)  # fmt: skip

# -- the ones that were written last


def bots(table: Table) -> None:
    """Accounts that belong to nobody swell the team: they spend and claim, and accept each other's."""
    books, who = table.books, table.who
    names = [f"bot-{who.number}-{i}" for i in range(4)]
    for week in range(books.weeks):
        for i, name in enumerate(names):
            bot = Person(who.number, name, who.team, who.role, 0.0)
            run = books.run(
                bot, working_moment(books.rng, week), Work(10, 2_000, 200, 0.2), agents=(who.helper,), waste=True
            )
            _claim(table, run.last_s + 600, run.run, kind="task", user=name, accepted_by=names[i - 1])


def drip(table: Table) -> None:
    """One change is claimed in pieces of a day each, under made-up services, and mates wave it through."""
    books, who = table.books, table.who
    for week in range(0, books.weeks, 2):
        at_s = working_moment(books.rng, week)
        run = books.run(who, at_s, usual_work(who, books.rng))
        books.value[who.user] += BUILT_IN["deployment"].weight
        for i in range(6):
            _claim(table, run.last_s + 600 + i * 1.1 * DAY_S, run.run, key=f"svc-{run.run}-{i}#1")


def reopen(table: Table) -> None:
    """A case is settled, reopened and settled again, four times."""
    books, who = table.books, table.who
    for week in range(books.weeks):
        run = books.run(who, working_moment(books.rng, week), usual_work(who, books.rng))
        number = books.rng.getrandbits(40)
        books.value[who.user] += BUILT_IN["case"].weight
        for i in range(4):
            at_s = run.last_s + 600 + i * 4 * HOUR_S
            _claim(
                table, at_s, run.run, kind="case", key=f"case-{number}/{i}", fold=f"case-{number}",
                accepted_by=f"customer-{number}", revoked_s=at_s + 2 * HOUR_S if i < 3 else None,
            )  # fmt: skip


def fig_leaf(table: Table) -> None:
    """Much is burned at weekends, and one small true thing a month stands before it."""
    books, who = table.books, table.who
    for day in _days(table):
        if day % 7 >= 5:
            for _ in range(8):
                at_s = START_S + day * DAY_S + books.rng.uniform(6, 23) * HOUR_S
                books.run(who, at_s, Work(30, 5_000, 300, 0.1), agents=(who.helper,), waste=True)
        if day % 28 == 2:
            run = books.run(who, START_S + day * DAY_S + 10 * HOUR_S, Work(5, 2_000, 200), agents=(who.helper,))
            books.value[who.user] += BUILT_IN["merge"].weight
            _claim(table, run.last_s + 600, run.run, kind="merge", source="git", fold=run.run)


def new_names(table: Table) -> None:
    """A new agent each fortnight, so that none has a past."""
    books, who = table.books, table.who
    for day in _days(table):
        for _ in range(4):
            at_s = START_S + day * DAY_S + books.rng.uniform(8, 20) * HOUR_S
            agents = (f"{who.helper}-{day // 14}",)
            run = books.run(who, at_s, Work(50, 2_500, 90, 0.1, "small"), agents=agents, waste=True)
            books.repeat(agents[0], who.team, run, of=run.calls // 3)


def ride_along(table: Table) -> None:
    """A run of one's own is named beside that of somebody else, to share in what they did."""
    books = table.books
    for other in books.rng.sample(books.runs, 25):
        if other.user != table.who.user:
            own = _fake_run(table, other.first_s)
            _claim(table, other.last_s + HOUR_S, own.run, attributes=(("run", other.run),), user=None, team=None)


LATER: tuple[Way, ...] = (bots, drip, reopen, fig_leaf, new_names, ride_along)


_ALL_THEIR_WORK = frozenset({padding})


def play(table: Table, way: Way) -> None:
    """Some work, and a way to look as if it were more."""
    if way not in _ALL_THEIR_WORK:
        play_honestly(table.books, table.who, table.mates, zeal=0.7)
    way(table)


SETS = {"known": KNOWN, "more": MORE, "later": LATER}
