"""Meter: what users build. It wires the rooms together and holds everything; there is no global state."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msgspec.structs import replace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from tokenmeter.attribution import AgentScope, current
from tokenmeter.budgets import Budget, MemoryStore, Policy, Store
from tokenmeter.budgets.pauses import Pauses
from tokenmeter.budgets.remaining import Remaining, remaining
from tokenmeter.budgets.thresholds import Crossing
from tokenmeter.clients.instruments import Instruments
from tokenmeter.clients.later import Later
from tokenmeter.clients.metering import Clock, Metering
from tokenmeter.errors import ConfigError, StoreUnavailable
from tokenmeter.faults import swallow
from tokenmeter.forks import load_aside, renew_in_child
from tokenmeter.ledger import MemoryLedger, Spend, ledger_beside, open_ledger
from tokenmeter.ledger.memory import ANY
from tokenmeter.loops import LoopPolicy
from tokenmeter.loops.guard import Memory
from tokenmeter.meter_options import check, checked_store
from tokenmeter.notes import House, UsageOption
from tokenmeter.pricing import ExpectedCost, InputBound, Overshoot, Price, PriceBook, parse_prices
from tokenmeter.record import Recorder
from tokenmeter.telemetry import Metrics, Spans
from tokenmeter.turn import Turn, in_turn
from tokenmeter.version import VERSION

if TYPE_CHECKING:
    from tokenmeter.config import Watched
    from tokenmeter.outcomes.sink import Sink

C = TypeVar("C")

logger = logging.getLogger("tokenmeter")

# The arguments that a configuration has under the same names.
_FROM_FILE = (
    "budgets", "loops", "store", "ledger", "prices", "unpriced", "ask_stream_usage", "metric_labels",
    "max_label_values", "user_key", "propagate_baggage",
)  # fmt: skip


class SystemClock:
    """The time of the machine."""

    def now_s(self) -> float:
        """Seconds since the epoch."""
        return time.time()


def _fingerprint_key(user_key: bytes | None) -> bytes:
    """With a ``user_key``, fingerprints are the same in all processes that have it; otherwise in this one alone."""
    if user_key is None:
        return secrets.token_bytes(32)
    return hmac.new(user_key, b"tokenmeter.fingerprint", hashlib.sha256).digest()


def _store_at(address: str) -> Store:
    if address == "memory://":
        return MemoryStore()
    from tokenmeter.budgets.assembly import assemble

    return assemble(address)


class Meter:
    """Meters LLM calls: attributes them, holds them to budgets before they go out, and records what they cost.

    Args:
        budgets: what may be spent; see `Budget`.
        loops: what stops agents that run in circles; see `LoopPolicy`, whose defaults are in force unless given.
        store: where the budgets are kept: ``memory://``, this process; ``sqlite:///FILE``, the processes of one
            machine; ``redis://HOST:PORT/0``, a fleet. Or a `Store` of your own, which the meter then doesn't close.
        ledger: where outcomes go, and calls when they are drained: ``sqlite:///FILE`` or ``postgresql://…``. Beside a
            store in SQLite by default, otherwise in the memory of this process, the newest 10,000, where reports can't
            see them.
        prices: negotiated prices, and prices of models that genai-prices doesn't know: a mapping from
            ``"model"`` or ``"provider/model"`` to `Price`, or the path of a TOML or JSON file.
        unpriced: what to do with a model that has no known price when a money budget applies: ``"refuse"`` it,
            ``"allow"`` it and meter its tokens only, or charge it at the given `Price`.
        ask_stream_usage: ask OpenAI-compatible servers for the usage of streams. The caller's own
            ``stream_options`` win, and the extra chunk is hidden.
        tracer_provider, meter_provider: the OpenTelemetry providers; the global ones by default.
        metric_labels: scope fields to add to the metrics, of ``agent``, ``user``, ``team``, ``run``.
        max_label_values: how many distinct values such a label may take; the rest becomes ``(other)``.
        user_key: when given, spans and metrics carry ``user.hash``, an HMAC of the user under this key, not
            ``user.id``; and the fingerprints of requests are the same in all processes that have it, so that duplicate
            work is seen.
        propagate_baggage: let W3C baggage reach model providers. Off: their requests carry none.
        recorders: objects whose ``record(row)`` gets the `CallRecord` of each call, right after the call was settled:
            on the caller's thread or, under asyncio with a store that may wait, on one of the meter's threads.
        on_threshold: called with a `Crossing` when what is spent crosses one of a budget's thresholds: by the process
            whose call crossed it, once per window, on the thread that settles, which may be one of the meter's. With
            leases that happens when the spend is reported to the store. It is logged as well.
        clock: tells the time; for tests.

    Raises:
        ConfigError: a budget, a price or an option that makes no sense.
    """

    def __init__(
        self,
        budgets: Sequence[Budget] = (),
        *,
        loops: LoopPolicy | None = None,
        store: str | Store = "memory://",
        ledger: str | None = None,
        prices: Mapping[str, Price | Mapping[str, object]] | str | os.PathLike[str] | None = None,
        unpriced: Literal["refuse", "allow"] | Price = "refuse",
        ask_stream_usage: bool = True,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        metric_labels: Sequence[str] = (),
        max_label_values: int = 100,
        user_key: bytes | None = None,
        propagate_baggage: bool = False,
        recorders: Sequence[Recorder] = (),
        on_threshold: Callable[[Crossing], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        check(loops=loops, unpriced=unpriced, user_key=user_key, recorders=recorders, on_threshold=on_threshold)
        policy = Policy(budgets)
        self._prices = PriceBook(parse_prices(prices) if prices is not None else None)
        self._metrics = Metrics(
            meter_provider, VERSION, labels=metric_labels, max_label_values=max_label_values, user_key=user_key
        )
        self._ledger_url = ledger if ledger is not None or not isinstance(store, str) else ledger_beside(store)
        # Last of what may be refused: nobody would close it.
        self._store = _store_at(store) if isinstance(store, str) else checked_store(store)
        self._owns_store = isinstance(store, str)
        self._pauses = Pauses(self._store)
        self._pauses.refresh()
        self._clock: Clock = clock or SystemClock()

        # What is learned and kept of calls.
        self._ledger = MemoryLedger()
        self._bounds = InputBound()
        self._expected = ExpectedCost()
        self._later = Later(instant=self._store.instant)
        self._metrics.before_flush = self._later.flush

        # Where outcomes go: opened with the first of them.
        self._outcomes: Sink | None = None
        self._turn = Turn()  # of who opens it
        renew_in_child(self, "_turn", Turn)
        self._closed = False

        # The file that is followed, and the options that override it.
        self._file: Watched | None = None
        self._given: frozenset[str] = frozenset()

        house = House(
            prices=self._prices,
            bounds=self._bounds,
            policy=policy,
            loops=loops or LoopPolicy(),
            unpriced=unpriced,
            memory=Memory(secrets.token_bytes(16)),
            fingerprint_key=_fingerprint_key(user_key) if self._store.keeps_rows else b"",
            usage_option=UsageOption(ask_stream_usage),
            expected=self._expected,
            stops=self._pauses.refusal,
            rows_last=self._store.keeps_rows,
            patience_s=getattr(self._store, "patience_s", 0.0),
        )
        spans = Spans(tracer_provider, VERSION, user_key=user_key, propagate_baggage=propagate_baggage)
        self._metering = Metering(
            house=house,
            store=self._store,
            spans=spans,
            metrics=self._metrics,
            ledger=self._ledger,
            recorders=tuple(recorders),
            clock=self._clock,
            propagate_baggage=propagate_baggage,
            on_threshold=on_threshold,
            later=self._later,
            try_hold=getattr(self._store, "try_hold", None),
            try_sent=getattr(self._store, "try_sent", None),
        )
        listening: Any = self._store
        if hasattr(listening, "on_drawn"):  # calls on leases cross a threshold when they are drawn
            listening.on_drawn = self._metering.drawn
        self._instruments = Instruments(self._metering, partial(_warm_up, weakref.ref(self)))
        self._warmed = False

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None, **options: Any) -> Meter:
        """The meter that a ``tokenmeter.toml`` describes, and that follows the file when it changes.

        Without a ``path`` it is the file that ``$TOKENMETER_CONFIG`` names, else ``tokenmeter.toml`` in the working
        directory or above it. ``options`` are arguments of `Meter`; they override the file. Budgets, loops and prices
        that change in the file take effect within a second, within two where the file is written in place, and
        existing holds go on; a broken file changes nothing and is logged. The store and the telemetry stay as they
        were at the start.

        Raises:
            ConfigError: there is no file, or it can't be used; the text names file, line and remedy.
        """
        from tokenmeter.config import Watched, find_config

        found = find_config() if path is None else path
        if found is None:
            raise ConfigError(
                "no tokenmeter.toml in the working directory or above it; write one, name it in $TOKENMETER_CONFIG, "
                "or give its path"
            )
        file = Watched(found)
        config = file.config
        settings = {name: getattr(config, name) for name in _FROM_FILE}
        meter = cls(**{**settings, **options})
        meter._file, meter._given = file, frozenset(options)
        meter._metering.follow = meter._follow
        return meter

    # -- clients -----------------------------------------------------------------------------------------------

    def wrap(self, client: C) -> C:
        """Meter one client, and what is derived from it with ``with_options`` or ``copy``. Returns the same object.

        Takes the clients of the OpenAI and Anthropic SDKs, of ``httpx``, ``httpx2`` and ``boto3``, sync and async, and
        sessions of ``aiohttp`` and ``requests``.
        Wrapping twice, or wrapping and instrumenting, counts once.

        Raises:
            ConfigError: this kind of client can't be wrapped.
        """
        self._instruments.wrap(client)
        return client

    def instrument(self) -> None:
        """Meter every supported client of the process, including those made before, and carry scopes into threads."""
        self._instruments.instrument()

    def uninstrument(self) -> None:
        """Undo `instrument`: the original functions are put back."""
        self._instruments.uninstrument()

    # -- attribution -------------------------------------------------------------------------------------------

    def agent(
        self,
        name: str,
        *,
        user: str | None = None,
        team: str | None = None,
        run: str | None = None,
        **tags: str,
    ) -> AgentScope:
        """Charge the calls inside to an agent: a context manager, sync and async, and a decorator.

        What is not given is inherited from the scope outside. Nested agents are one level deeper each. The
        outermost agent starts a run with an id of its own unless ``run`` names one.

        Raises:
            ConfigError: a name or a tag that isn't a string, is empty, or is longer than 256 characters; more than 32
                tags.
        """
        return AgentScope(name, user, team, run, tags)

    # -- what was spent ----------------------------------------------------------------------------------------

    def spend(
        self,
        *,
        agent: str | None = ANY,
        user: str | None = ANY,
        team: str | None = ANY,
        run: str | None = ANY,
        model: str | None = ANY,
        provider: str = ANY,
        tags: Mapping[str, str] | None = None,
    ) -> Spend:
        """What this process's matching calls cost; a field left out matches all, ``None`` matches those without."""
        self._later.flush()
        return self._ledger.spend(agent=agent, user=user, team=team, run=run, model=model, provider=provider, tags=tags)

    def unattributed(self) -> Spend:
        """What the calls cost that have no agent, user or team."""
        self._later.flush()
        return self._ledger.spend(agent=None, user=None, team=None)

    def overshoot(self) -> Overshoot:
        """How far the calls of this process went beyond what was expected of them, under ``hold="expected"``."""
        self._later.flush()
        return self._expected.overshoot

    def remaining(
        self,
        *,
        agent: str | None = None,
        user: str | None = None,
        team: str | None = None,
        run: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> tuple[Remaining, ...]:
        """The budgets that a call of this scope would be held to, and what is left of each.

        Raises:
            StoreUnavailable: the store can't be read.
        """
        facts = {"agent": agent, "user": user, "team": team, "run": run, "model": model, "provider": provider}
        facts |= {"tag:" + name: value for name, value in (tags or {}).items()}
        self._later.flush()
        return remaining(self._metering.current().policy, self._store, facts, self._clock.now_s())

    # -- what came of it ---------------------------------------------------------------------------------------

    def outcome(
        self,
        kind: str,
        key: str,
        *,
        run: str | None = None,
        agents: Sequence[str] | None = None,
        team: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        confidence: float = 1.0,
        fold: str | None = None,
        accepted_by: str | None = None,
    ) -> None:
        """Note that something came of the spend: ``outcome("deployment", "api#412", accepted_by="ci")``.

        ``kind`` and ``key`` identify it: recording the same one again changes nothing. What isn't given is taken from
        the scope in force. ``weight`` is that of the kind unless given; ``fold`` names the change that it is a part
        of, and all parts of one change count as one. What nobody other than the spender accepted counts less.

        Raises:
            ConfigError: a name, a weight or a confidence that makes no sense.
            StoreUnavailable: the ledger can't be reached; nothing was noted, and it may be tried again. Or the meter
                is closed.
        """
        from tokenmeter.outcomes.kinds import BUILT_IN, new_outcome

        scope = current()
        declared = self._file.config.kinds if self._file is not None else None
        outcome = new_outcome(
            kind,
            key,
            self._clock.now_s(),
            run=run or scope.root or scope.run,
            agents=tuple(dict.fromkeys(scope.path)) if agents is None else agents,
            team=team or scope.team,
            user=user or scope.user,
            weight=weight,
            confidence=confidence,
            fold=fold,
            accepted_by=accepted_by,
            kinds=declared or BUILT_IN,
        )
        self._sink().put_outcome(outcome)

    def revoke(self, kind: str, key: str, why: str = "") -> None:
        """Take an outcome back: rolled back, reopened, reverted. May come before the outcome, and counts for good.

        Raises:
            ConfigError: a name that no outcome can have, or a reason that is no text.
            StoreUnavailable: the ledger can't be reached; nothing was noted, and it may be tried again. Or the meter
                is closed.
        """
        from tokenmeter.outcomes.kinds import check_revocation

        at_s = check_revocation(kind, key, self._clock.now_s(), why)
        self._sink().revoke(kind, key, at_s, why)

    @in_turn
    def _sink(self) -> Sink:
        if self._closed:
            raise StoreUnavailable("the meter is closed, and its ledger with it; tell it what came of calls before")
        if self._outcomes is None:
            self._outcomes = self._open_sink()
        return self._outcomes

    def _open_sink(self) -> Sink:
        if self._ledger_url is not None:
            return open_ledger(self._ledger_url)
        from tokenmeter.outcomes.sink import MemorySink

        logger.warning(
            "tokenmeter has no ledger, so no report will show the outcomes that it is told of; name one: "
            "Meter(ledger='sqlite:///FILE')"
        )
        return MemorySink()

    # -- life --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Finish what is still to be done for calls that ended, and write the queued metrics."""
        self._metrics.flush()
        flush = getattr(self._store, "flush", None)
        if flush is not None:
            flush()

    def close(self) -> None:
        """Undo every patch and write what is queued. Calls that are under way are still settled."""
        self._instruments.close()
        self._later.close()
        self._metrics.close()
        self._pauses.close()
        if self._owns_store:
            self._store.close()
        self._close_sink()

    @in_turn
    def _close_sink(self) -> None:
        self._closed = True
        close = getattr(self._outcomes, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> None:
        """Switch to the new file, if there is one."""
        config = self._file.changed() if self._file is not None else None
        if config is None:
            return
        house = self._metering.house
        changes: dict[str, Any] = {}
        if "budgets" not in self._given:
            changes["policy"] = Policy(config.budgets)
        if "prices" not in self._given:
            changes["prices"] = prices = PriceBook(config.prices)
            load_aside(prices.preload)
        for name in ("loops", "unpriced"):
            if name not in self._given:
                changes[name] = getattr(config, name)
        if "ask_stream_usage" not in self._given:
            house.usage_option.enabled = config.ask_stream_usage
        self._metering.house = replace(house, **changes)

    def _warm_up(self) -> None:
        """Load the prices off the caller's path: they take a third of a second."""
        if not self._warmed:
            self._warmed = True
            load_aside(self._load)

    def _load(self) -> None:
        try:
            import tokenmeter.loops.repeats  # noqa: F401 - before a call needs it

            self._prices.preload()
            self._bounds.preload()
        except Exception as fault:
            swallow(fault, "loading the prices")


def _warm_up(ref: weakref.ref[Meter]) -> None:
    meter = ref()
    if meter is not None:
        meter._warm_up()
