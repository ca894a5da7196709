"""Read ``tokenmeter.toml`` and check it: whoever reads an error can mend the file with it."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from tokenmeter.budgets import address
from tokenmeter.budgets.budget import Budget
from tokenmeter.budgets.policy import Policy
from tokenmeter.config.lines import lines_of
from tokenmeter.config.outcomes import kinds_of, rules_of
from tokenmeter.config.tables import Source, Table, kind_of, plain, shown
from tokenmeter.errors import ConfigError
from tokenmeter.loops import LoopPolicy
from tokenmeter.pricing import Price, parse_prices
from tokenmeter.telemetry.metrics import LABELS

if TYPE_CHECKING:
    from tokenmeter.outcomes.kinds import Kinds
    from tokenmeter.outcomes.rules import Rules

NAME = "tokenmeter.toml"
VARIABLE = "TOKENMETER_CONFIG"
_TABLES = ("meter", "store", "ledger", "loops", "prices", "telemetry", "budgets", "outcomes", "teams")
_LEDGERS = ("sqlite", "postgresql", "postgresql+psycopg")
_MOST_DAYS = 36_500
_MAX_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says, checked. The fields are the arguments of `Meter` with the same names.

    ``path`` is the file, ``files`` are all that were read for it. ``store`` is the address, that of a SQLite file
    made absolute. ``user_key_env`` names the environment variable that ``user_key`` was read from. ``ledger`` is the
    address of the ledger, None where none is named; its rows are kept for ``ledger_keep_days``, 0 keeps all. ``kinds``
    are the kinds of outcomes, the built-in ones too, and ``rules`` say how they count; None where the file has neither.
    """

    path: Path
    files: tuple[Path, ...] = ()
    budgets: tuple[Budget, ...] = ()
    loops: LoopPolicy = field(default_factory=LoopPolicy)
    store: str = field(default="memory://", repr=False)
    prices: Mapping[str, Price] = field(default_factory=lambda: MappingProxyType({}))
    unpriced: Literal["refuse", "allow"] | Price = "refuse"
    ask_stream_usage: bool = True
    metric_labels: tuple[str, ...] = ()
    max_label_values: int = 100
    user_key_env: str | None = None
    user_key: bytes | None = field(default=None, repr=False)
    propagate_baggage: bool = False
    ledger: str | None = field(default=None, repr=False)
    ledger_keep_days: float = 0.0
    kinds: Kinds | None = None
    rules: Rules | None = None


def find_config() -> Path | None:
    """The configuration that is in force here, or None.

    It is the file that ``$TOKENMETER_CONFIG`` names, else ``tokenmeter.toml`` in the working directory or above it,
    up to the root of the repository or the home directory. Outside of both only the working directory counts: what
    others may write to, such as ``/tmp``, is not looked at. Raises `ConfigError` if the variable names no file.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).absolute()
        if not path.is_file():
            raise ConfigError(f"${VARIABLE} names {str(path)!r}, and no such file is there; correct or unset it")
        return path
    for folder in _folders(Path.cwd()):
        if (folder / NAME).is_file():
            return folder / NAME
    return None


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a file. Raises `ConfigError` naming the file, the line, the value and the remedy."""
    path = Path(path).absolute()
    source, given = _tables_of(path)

    def section(name: str) -> Table:
        return Table(source, (name,), given[name], f"[{name}]")

    meter = section("meter")
    files = [path]
    prices_file = _beside(path, meter.take("prices_file", str, ""))
    if prices_file is not None:
        files.append(prices_file)
    unpriced = _unpriced(meter)
    ask_stream_usage = meter.take("ask_stream_usage", bool, True)
    meter.done()
    return Config(
        path=path,
        files=tuple(files),
        budgets=_budgets(source, given["budgets"]),
        loops=_loops(section("loops")),
        store=_store(section("store")),
        prices=_prices(section("prices"), meter, prices_file),
        unpriced=unpriced,
        ask_stream_usage=ask_stream_usage,
        **_telemetry(section("telemetry")),
        **_ledger(section("ledger")),
        kinds=kinds_of(source, given["outcomes"]),
        rules=rules_of(source, given["outcomes"], given["teams"]),
    )


def load_outcomes(path: str | os.PathLike[str]) -> tuple[Kinds | None, Rules | None]:
    """The kinds and the rules of a file alone.

    What its store and its ledger need of the environment may be missing: where outcomes are told, such as in CI, there
    is often no store. Raises `ConfigError` like `load_config`.
    """
    source, given = _tables_of(Path(path).absolute())
    return kinds_of(source, given["outcomes"]), rules_of(source, given["outcomes"], given["teams"])


# -- the file ----------------------------------------------------------------------------------------------------


def _folders(here: Path) -> list[Path]:
    folders = [here, *here.parents]
    try:
        home: Path | None = Path.home()
    except RuntimeError:  # a user without one
        home = None
    for number, folder in enumerate(folders):
        if folder == home or (folder / ".git").exists():
            return folders[: number + 1]
    return [here]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror or error}); check the path") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {_MAX_BYTES:,} bytes; that is no configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is no UTF-8 text; save the file as UTF-8") from None


def _tables_of(path: Path) -> tuple[Source, dict[str, Any]]:
    text = _read(path)
    table = _parse(path, text)
    try:
        lines = lines_of(text)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deep; write it flat") from None
    source = Source(path, lines)
    top = Table(source, (), table, "the file")
    given = {name: top.any(name, {}) for name in _TABLES}
    top.done()
    return source, given


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        reason = str(error)[: found.start()] if found else str(error)
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        column = f" at column {found[2]}" if found and found[2] else " at the end of the file"
        raise ConfigError(f"{path}:{line}: is no valid TOML: {reason}{column}; correct the line") from None
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise ConfigError(f"{path}: is no valid TOML ({error}); correct the file") from None


def _beside(path: Path, name: str) -> Path | None:
    return Path(os.path.normpath(path.parent / name)) if name else None


# -- the tables --------------------------------------------------------------------------------------------------


def _budgets(source: Source, found: object) -> tuple[Budget, ...]:
    if found == {}:
        return ()
    if not isinstance(found, list):
        source.refuse(("budgets",), f"budgets is {kind_of(found)}; write each budget under a line [[budgets]]")
    budgets: list[Budget] = []
    names: dict[str, int] = {}
    for number, each in enumerate(found):
        table = Table(source, ("budgets", number), each, "[[budgets]]")
        budget = table.make(Budget, needed="limit")
        if budget.named and budget.name in names:
            first = source.lines[("budgets", names[budget.name])]
            table.refuse("name", f"{shown(budget.name)} is the name of the budget on line {first} too; choose another")
        names[budget.name] = number
        budgets.append(budget)
    try:
        return Policy(budgets).budgets
    except ConfigError as error:
        source.refuse(("budgets",), str(error))


def _loops(table: Table) -> LoopPolicy:
    values = table.rest()
    lifted = {key: None if value == "none" else value for key, value in values.items()}
    return Table(table.source, table.place, lifted, table.title).make(LoopPolicy)


def _store(table: Table) -> str:
    key, url = _url(table)
    if key in table and "://" not in url:
        # The address itself may carry a password.
        table.refuse(key, '… is no address of a store; write "sqlite:///tokenmeter.db" or "redis://HOST:6379"')
    if url:
        try:
            address.check(url)
        except ConfigError as error:
            table.refuse(key, f"… makes no sense: {error}")
    return _anchored(url, table.source.path.parent) if url else "memory://"


def _ledger(table: Table) -> dict[str, Any]:
    keep_days = plain(table.any("keep_days", 0))
    key, url = _url(table)
    if key in table and url.partition("://")[0] not in _LEDGERS:
        # The address itself may carry a password.
        table.refuse(key, '… is no address of a ledger; write "sqlite:///FILE" or "postgresql://USER@HOST/DATABASE"')
    if isinstance(keep_days, bool) or not isinstance(keep_days, int | float) or not 0 <= keep_days <= _MOST_DAYS:
        table.refuse("keep_days", f"{shown(keep_days)} is no number of days; write 1 to {_MOST_DAYS}, or 0 to keep all")
    return {
        "ledger": _anchored(url, table.source.path.parent) if url else None,
        "ledger_keep_days": float(keep_days),
    }


def _url(table: Table) -> tuple[str, str]:
    """The key of the address, and the address, which may stand in an environment variable. The last of a table."""
    url = table.take("url", str, "")
    variable = table.take("url_env", str, "")
    table.done()
    if not variable:
        return "url", url
    if url:
        table.refuse("url_env", f"{shown(variable)} stands beside url; keep one of the two")
    return "url_env", _variable(table, "url_env", variable)


def _anchored(url: str, folder: Path) -> str:
    """The same with the file of SQLite beside the configuration, not in whatever the working directory is."""
    scheme, _, name = url.partition(":///")
    file = name.partition("?")[0]
    if scheme != "sqlite" or not file or file.startswith((":", "file:")) or Path(file).is_absolute():
        return url
    return f"sqlite:///{os.path.normpath(folder / file)}{name[len(file) :]}"


def _prices(table: Table, meter: Table, file: Path | None) -> Mapping[str, Price]:
    prices: dict[str, Price] = {}
    for key, value in table.rest().items():
        try:
            prices.update(parse_prices({key: value}))
        except ConfigError as error:
            inner = Table(table.source, (*table.place, key), value if isinstance(value, dict) else {}, table.title)
            inner.blame(inner.keys, ConfigError(str(error).removeprefix("prices: ")))
    if file is not None:
        try:
            prices = {**parse_prices(file), **prices}
        except ConfigError as error:
            meter.refuse("prices_file", f"{shown(str(file))}: {error}")
    return MappingProxyType(prices)


def _unpriced(table: Table) -> Literal["refuse", "allow"] | Price:
    value = table.any("unpriced", "refuse")
    if isinstance(value, dict):
        inner = Table(table.source, (*table.place, "unpriced"), value, f"{table.title} unpriced")
        try:
            return parse_prices({"unpriced": value})["unpriced"]
        except ConfigError as error:
            inner.blame(inner.keys, ConfigError(str(error).removeprefix("prices: 'unpriced'").lstrip(": ")))
    if value not in ("refuse", "allow"):
        table.refuse("unpriced", f'{shown(value)} is unknown; write "refuse", "allow" or {{input = "2", output = "8"}}')
    return "allow" if value == "allow" else "refuse"


def _telemetry(table: Table) -> dict[str, Any]:
    labels = table.texts("metric_labels", '["agent", "team"]')
    for label in labels:
        if label not in LABELS:
            table.refuse("metric_labels", f"{shown(label)} is no label; choose from {', '.join(LABELS)}")
    most = table.take("max_label_values", int, 100)
    if most < 0:
        table.refuse("max_label_values", f"{most} makes no sense; write 0 or more")
    variable = table.take("user_key_env", str, "")
    key = _variable(table, "user_key_env", variable).encode() if variable or "user_key_env" in table else None
    propagate = table.take("propagate_baggage", bool, False)
    if "user_key" in table:
        table.refuse("user_key", "… is a secret; put it into an environment variable and name that in user_key_env")
    table.done()
    return {
        "metric_labels": labels,
        "max_label_values": most,
        "user_key_env": variable or None,
        "user_key": key,
        "propagate_baggage": propagate,
    }


def _variable(table: Table, key: str, name: str) -> str:
    value = os.environ.get(name) if name else None
    if not value:
        state = "is empty there" if value == "" else "is not in the environment"
        table.refuse(key, f"{shown(name)}: the variable {state}; set it, or take the line out")
    return value
