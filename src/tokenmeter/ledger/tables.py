"""The tables of a ledger: a row a call, and the sums that reports read in their place.

``groups`` names who made calls of what model, once: calls and sums have its number, so that a million rows don't
repeat the names, and a user is renamed in one place. ``hour_sums`` and ``day_sums`` add up the calls of a group in an
hour and in a day, ``run_sums`` those of a run. ``prints`` knows each fingerprint that was seen, ``repeat_days`` adds up
the calls that came after the first of theirs. `migrations` makes all this; what stands here is how the version of now
is spoken to.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, LargeBinary, MetaData, SmallInteger, Table, Text

from tokenmeter.ledger.views import SUMS

metadata = MetaData()
PREFIX = "tokenmeter_"

RUN_SUMS = (
    "calls",
    "nanos",
    "estimated_nanos",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "refused",
    "failed",
    "incomplete",
    "warned",
)


def _number(name: str = "number") -> Column[int]:
    """The primary key that the database counts up by itself."""
    return Column(name, BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


versions = Table(f"{PREFIX}versions", metadata, Column("version", Integer, primary_key=True), Column("at_s", Double))

# How far each store was read.
marks = Table(
    f"{PREFIX}marks",
    metadata,
    Column("source", Text, primary_key=True),
    Column("mark", Text, nullable=False),
    Column("anchor", Text, nullable=False),  # the id of the entry there
    Column("at_s", Double, nullable=False),
)

# `digest`: of the five names, which may be long and may be missing. `moved_to`: while groups are put together.
groups = Table(
    f"{PREFIX}groups",
    metadata,
    _number(),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("agent", Text),
    Column("team", Text),
    Column("user", Text),
    Column("provider", Text, nullable=False),
    Column("model", Text),
    Column("moved_to", BigInteger),
)

# `rank`: 0 stands in for a process that died, 1 estimated, 2 as the provider says; `line`: the rest of the record.
calls = Table(
    f"{PREFIX}calls",
    metadata,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("at_s", Double, nullable=False),
    Column("group_number", BigInteger, nullable=False),
    Column("run_number", BigInteger),
    Column("status", Text, nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("charged", Boolean, nullable=False),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cache_read_tokens", BigInteger),
    Column("cache_write_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("cost_nanos", BigInteger),
    Column("error_type", Text),
    Column("fingerprint", Text),
    Column("line", LargeBinary, nullable=False),
)


def _sums(name: str) -> Table:
    return Table(
        f"{PREFIX}{name}",
        metadata,
        Column("start_s", BigInteger, primary_key=True),
        Column("group_number", BigInteger, primary_key=True),
        *[Column(name, BigInteger, nullable=False) for name in SUMS],
    )


hour_sums = _sums("hour_sums")
day_sums = _sums("day_sums")

# `agents`: JSON of [how deep, name], the outermost first; `models`: JSON of names.
run_sums = Table(
    f"{PREFIX}run_sums",
    metadata,
    _number(),
    Column("run", Text, nullable=False, unique=True),
    Column("group_number", BigInteger, nullable=False),  # of the first call that was met
    Column("agents", LargeBinary, nullable=False),
    Column("models", LargeBinary, nullable=False),
    Column("first_s", Double, nullable=False),
    Column("last_s", Double, nullable=False),
    Column("max_depth", Integer, nullable=False),
    *[Column(name, BigInteger, nullable=False) for name in RUN_SUMS],
)

# `first_id`, `first_nanos`: the call that was met first; `recent`: hashes of the runs that were met last.
prints = Table(
    f"{PREFIX}prints",
    metadata,
    _number(),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("fingerprint", Text, nullable=False),
    Column("agent", Text),
    Column("team", Text),
    Column("first_id", Text, nullable=False),
    Column("first_nanos", BigInteger, nullable=False),
    Column("last_s", Double, nullable=False),
    Column("runs", BigInteger, nullable=False),
    Column("recent", LargeBinary, nullable=False),
)

repeat_days = Table(
    f"{PREFIX}repeat_days",
    metadata,
    Column("day_s", BigInteger, primary_key=True),
    Column("print_number", BigInteger, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("nanos", BigInteger, nullable=False),
)

outcomes = Table(
    f"{PREFIX}outcomes",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("team", Text),
    Column("user", Text),
    Column("run", Text),
    Column("agents", LargeBinary, nullable=False),
    Column("weight", Double, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("fold", Text),
    Column("accepted_by", Text),
    Column("source", Text, nullable=False),
    Column("attributes", LargeBinary, nullable=False),
)

# Apart from the outcomes, because one may be known first.
revocations = Table(
    f"{PREFIX}revocations",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("at_s", Double, nullable=False),
    Column("why", Text),
)

links = Table(
    f"{PREFIX}links",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("share", Double, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("how", Text, nullable=False),
)
