"""What the story of a call knows: the request, the rooms it walks through, and the notes it takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct, field

from tokenmeter.attribution import Scope
from tokenmeter.budgets.extension import Extension
from tokenmeter.budgets.policy import Claim, Policy
from tokenmeter.budgets.store import Held, Note
from tokenmeter.budgets.thresholds import Thresholds
from tokenmeter.errors import Paused, Refused
from tokenmeter.loops import LoopPolicy
from tokenmeter.loops.findings import Finding
from tokenmeter.loops.guard import Memory
from tokenmeter.pricing import ExpectedCost, InputBound, Price, PriceBook, Rate
from tokenmeter.pricing.expected import Expected
from tokenmeter.wire import Ask, Reading, Route


def _nobody_is_paused(scope: Scope) -> Paused | None:
    return None


def _no_note() -> bytes:
    return b""


class Request(Struct, gc=False):
    """A request that was recognised as a model call, as its client is about to send it."""

    route: Route
    body: bytes | None  # None: it can't be read without disturbing it
    headers: Mapping[str, str]  # looked up without regard to case; dropped once it was sent
    scope: Scope
    at_s: float
    host: str
    port: int | None
    id: str = ""  # of the call, unlike any other; "": one is drawn

    @property
    def rewritable(self) -> bool:
        """Whether its body may be replaced: it is neither compressed nor signed."""
        headers = self.headers
        return "content-encoding" not in headers and not headers.get("authorization", "").startswith("AWS4-")

    @property
    def ends_with_its_reader(self) -> bool:
        """Whether nothing more is generated once nobody reads on; over a websocket it is."""
        return "upgrade" not in self.headers


class UsageOption:
    """Remembers the hosts that reject ``stream_options``."""

    __slots__ = ("_rejecting", "enabled")

    MAX_HOSTS = 1_024

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._rejecting: set[tuple[str, int | None]] = set()

    def allowed(self, host: str, port: int | None) -> bool:
        return self.enabled and (host, port) not in self._rejecting

    def rejected(self, host: str, port: int | None) -> None:
        if len(self._rejecting) >= self.MAX_HOSTS:
            self._rejecting.clear()
        self._rejecting.add((host, port))


class House(Struct, frozen=True):
    """The rooms that the story walks through."""

    prices: PriceBook
    bounds: InputBound
    policy: Policy
    loops: LoopPolicy
    memory: Memory = field(default_factory=lambda: Memory(bytes(16)))
    unpriced: Literal["refuse", "allow"] | Price = "refuse"
    usage_option: UsageOption = field(default_factory=UsageOption)
    thresholds: Thresholds = field(default_factory=Thresholds)
    expected: ExpectedCost = field(default_factory=ExpectedCost)
    stops: Callable[[Scope], Paused | None] = _nobody_is_paused
    fingerprint_key: bytes = b""  # of the hashes of requests in persistent rows
    rows_last: bool = False  # the store keeps rows, and must know which requests went out
    patience_s: float = 0.0  # the least that a call waits: what other processes lease and don't use comes back


class Call(Struct):
    """The notes on one call, filled in as the story goes on."""

    id: str
    request: Request
    route: Route
    ask: Ask
    scope: Scope
    model: str | None
    rate: Rate | None = None
    input_bound: int = 0
    output_bound: int = 0  # over all choices
    tool_calls: int = 0  # paid calls of server-side tools to allow for
    worst_nanos: int | None = None
    expected: Expected | None = None  # what it will probably use, where a budget holds that
    claims: tuple[Claim, ...] = ()
    stage: Extension | None = None  # of a stream whose hold grows
    held: Held | None = None
    waited: bool = False  # for a budget, or for a brake
    body: bytes | None = None  # what goes out in place of the caller's, to another model
    output_cap: int | None = None  # the cap that was written into the request here
    refusal: Refused | None = None
    fingerprint: str | None = None
    ticket: int | None = None  # how the guards know it again
    findings: tuple[Finding, ...] = ()  # what the guards found, and let pass
    tried_models: tuple[str, ...] = ()  # the models that no budget could pay, the caller's own first
    note: Note = _no_note  # the row to keep should this process die while the request is out


class Answer(Struct, frozen=True):
    """What came back. Exactly one of ``reading``, ``streams`` and ``failure`` says how far it got."""

    status: int | None = None
    reading: Reading | None = None  # the body was there as a whole, or has passed by
    streams: bool = False  # the body is still to come
    failure: BaseException | None = None  # the request, or the body on its way, failed with this
    unsent: bool = False  # the failure came before the request left
    rejected: bool = False  # the provider refused the usage option that was added
    time_to_first_chunk_s: float | None = None
    duration_s: float = 0.0
