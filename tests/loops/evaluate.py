"""What the guards catch and what they stop for nothing: real runs replayed, and loops built from them.

Run it as ``python -m tests.loops.evaluate [TRACES] [SEED]``. Every assistant message of a run is an answer; the
messages before it are the request. A loop counts as caught when one of its requests is refused under the default
policy, and a clean run as stopped when one of its is.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.loops.meant import KINDS, meant
from tests.support.shared import SHARED
from tokenmeter.loops.findings import Facts, Finding
from tokenmeter.loops.guard import Memory, judge
from tokenmeter.loops.policy import LoopPolicy

TRACES = SHARED / "traces" / "tau_airline.jsonl.gz"

MOST_SHOWN = 12

Message = dict[str, Any]
Requests = Iterator[list[Message]]


@dataclass
class Run:
    """A run of an agent, as a list of the requests that it sends."""

    name: str
    kind: str
    requests: Callable[[], Requests]
    stopped: Finding | None = None
    at: int = -1
    findings: list[Finding] = field(default_factory=list)


def load(path: Path = TRACES) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def prefixes(messages: list[Message]) -> Requests:
    """One request for each answer."""
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            yield messages[:at]


def body_of(messages: Sequence[Message]) -> bytes:
    request = {"model": "gpt-4o", "messages": messages, "temperature": 0.0}
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode()


def replay(run: Run, policy: LoopPolicy, memory: Memory) -> Run:
    """Send the requests of a run until one is refused."""
    at_s = 1_790_000_000.0
    for number, messages in enumerate(run.requests()):
        at_s += 3
        facts = Facts(at_s, agent="desk", run=run.name, path=("desk",), protocol="openai.chat", body=body_of(messages))
        judged = judge(policy, memory, facts)
        run.findings += judged.findings
        if judged.refusal is not None:
            run.stopped, run.at = judged.refusal, number
            break
        memory.answered(judged.ticket)
    return run


def clean_runs(runs: list[dict[str, Any]]) -> list[Run]:
    return [
        Run(
            f"{'solved' if run['reward'] == 1 else 'failed'}-{number}",
            "solved" if run["reward"] == 1 else "failed",
            partial(prefixes, run["traj"]),
        )
        for number, run in enumerate(runs)
    ]


def meant_runs(seed: int, each: int) -> Iterator[Run]:
    for number, (kind, told) in enumerate(meant(seed, each)):
        yield Run(f"{kind}-{number}-{seed}", kind, partial(prefixes, told))


def steps_of(messages: list[Message]) -> list[int]:
    """Where a step with a tool begins."""
    return [at for at, message in enumerate(messages[:-1]) if message.get("tool_calls")]


def exchanges_of(messages: list[Message]) -> list[int]:
    """Where an assistant's text is followed by a user's."""
    return [
        at
        for at in range(2, len(messages) - 1)
        if messages[at]["role"] == "assistant" and messages[at + 1]["role"] == "user" and messages[at]["content"]
    ]


def again(messages: list[Message], rng: random.Random) -> list[Message]:
    """A copy of some messages; ids of calls are drawn anew, as models do."""
    copied = copy.deepcopy(messages)
    ids: dict[str, str] = {}
    for message in copied:
        for call in message.get("tool_calls") or ():
            ids[call["id"]] = call["id"] = "call_" + "".join(
                rng.choices("abcdefghijklmnopqrstuvwxyzABCDEF0123456789", k=24)
            )
        if "tool_call_id" in message:
            message["tool_call_id"] = list(ids.values())[-1] if ids else message["tool_call_id"]
    return copied


PHRASES = {
    "user": ["Could you {}", "Please, {}", "I'd like you to {}", "Once more: {}", "As I said, {}", "Kindly {}",
             "Again, {} please", "Would you mind: {}"],
    "assistant": ["Let me see. {}", "Certainly! {}", "Of course. {}", "One moment, please. {}", "Sure thing: {}",
                  "Right away. {}", "Understood. {}", "Thanks for waiting. {}"],
}  # fmt: skip
GOODBYES = {
    "user": ["Thank you!", "Thanks so much!", "Have a great day!", "Bye!", "Thanks again, goodbye!", "You too!",
             "Take care!", "Much appreciated, thank you!"],
    "assistant": ["You're welcome!", "You're very welcome! Have a great day!", "My pleasure! Goodbye!", "Goodbye!",
                  "Take care!", "You too! Have a wonderful day!", "Anytime! Bye!", "Glad to help!"],
}  # fmt: skip


def stamp(number: int, start: int) -> str:
    at = start + 17 * number
    return f"2026-11-28T{at // 3600 % 24:02}:{at // 60 % 60:02}:{at % 60:02}Z"


def loops(runs: list[dict[str, Any]], seed: int, each: int = 40) -> Iterator[Run]:
    """Synthetic loops, each built from a run that was drawn."""
    rng = random.Random(seed)
    pool = [run["traj"] for run in runs if len(steps_of(run["traj"])) > 1 and len(exchanges_of(run["traj"])) > 1]

    def built(kind: str, make: Callable[[list[Message], random.Random], Callable[[], Requests]]) -> Iterator[Run]:
        for number in range(each):
            own = random.Random(rng.random())
            yield Run(f"{kind}-{number}-{seed}", kind, make(own.choice(pool), own))

    for times in (4, 8, 100):
        yield from built(f"step x{times}, then on", partial(repeated_step, times=times, goes_on=True))
        yield from built(f"step x{times}, to the end", partial(repeated_step, times=times, goes_on=False))
        yield from built(f"request x{times}", partial(resent, times=times))
        yield from built(f"exchange x{times}", partial(repeated_exchange, times=times))
    for period in (2, 3, 4):
        yield from built(f"cycle of {period} x4", partial(cycled, period=period, times=4))
    for times in (6, 20):
        yield from built(f"goodbyes x{times}", partial(goodbyes, times=times))
    yield from built("two phrases x5", partial(two_phrases, times=5))
    for times in (4, 8):
        yield from built(f"time in the result x{times}", partial(ticking, times=times, what="time", where="result"))
        yield from built(
            f"counter in the result x{times}", partial(ticking, times=times, what="counter", where="result")
        )
        yield from built(f"time in the texts x{times}", partial(ticking, times=times, what="time", where="texts"))
        yield from built(f"counter in the texts x{times}", partial(ticking, times=times, what="counter", where="texts"))
        yield from built(f"time in the arguments x{times}", partial(ticking, times=times, what="time", where="args"))
        counted = partial(ticking, times=times, what="counter", where="args")
        yield from built(f"counter in the arguments x{times}", counted)
        yield from built(f"time in the request x{times}", partial(resent, times=times, what="time"))
        yield from built(f"counter in the request x{times}", partial(resent, times=times, what="counter"))
    for times in (4, 8):
        for what in WRAPPED:
            yield from built(f"{what} around the result x{times}", partial(wrapped, times=times, what=what))
        for what in ("a terse counter", "a counter of no known name", "a mark"):
            yield from built(f"{what} in the arguments x{times}", partial(argued, times=times, what=what))
    for times in (4, 6, 12):
        yield from built(f"status talk x{times}", partial(status_talk, times=times))
    for times in (6, 12):
        yield from built(f"paraphrased exchange x{times}", partial(paraphrased, times=times))
        yield from built(f"paraphrased request and step x{times}", partial(paraphrased_step, times=times))


def repeated_step(messages: list[Message], rng: random.Random, times: int, goes_on: bool) -> Callable[[], Requests]:
    at = rng.choice(steps_of(messages))
    loop = [m for _ in range(times) for m in again(messages[at : at + 2], rng)]
    told = messages[:at] + loop + (messages[at + 2 :] if goes_on else [])
    return lambda: prefixes(told)


def resent(messages: list[Message], rng: random.Random, times: int, what: str = "") -> Callable[[], Requests]:
    all_requests = list(prefixes(messages))
    request = rng.choice(all_requests[1:])
    start = rng.randrange(80_000)

    def requests() -> Requests:
        for number in range(times):
            mark = {"": "", "time": f" Now it is {stamp(number, start)}.", "counter": f" (attempt {number + 1})"}[what]
            last = request[-1]
            yield [*request[:-1], {**last, "content": f"{last['content'] or ''}{mark}"}]

    return requests


def repeated_exchange(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    at = rng.choice(exchanges_of(messages))
    told = messages[:at] + [m for _ in range(times) for m in again(messages[at : at + 2], rng)]
    return lambda: prefixes(told)


def cycled(messages: list[Message], rng: random.Random, period: int, times: int) -> Callable[[], Requests]:
    steps = steps_of(messages)
    chosen = sorted(rng.sample(steps, min(period, len(steps))))
    loop = [m for _ in range(times) for at in chosen for m in again(messages[at : at + 2], rng)]
    told = messages[: chosen[-1] + 2] + loop
    return lambda: prefixes(told)


def goodbyes(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    told = list(messages)
    if told[-1]["role"] == "user":
        told.pop()
    for _ in range(times):
        told.append({"role": "user", "content": rng.choice(GOODBYES["user"])})
        told.append({"role": "assistant", "content": rng.choice(GOODBYES["assistant"])})
    return lambda: prefixes(told)


def two_phrases(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    one, other = rng.choice(GOODBYES["user"]), rng.choice(GOODBYES["assistant"])
    told = list(messages)
    for _ in range(times):
        told += [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
    return lambda: prefixes(told)


def ticking(messages: list[Message], rng: random.Random, times: int, what: str, where: str) -> Callable[[], Requests]:
    start = rng.randrange(80_000)
    at = rng.choice(exchanges_of(messages) if where == "texts" else steps_of(messages))
    told = messages[:at]
    form = rng.choice(["[{}]", "(attempt {})", "#{}", "Round {}."])
    for number in range(times):
        mark = stamp(number, start) if what == "time" else f"{number + 1}"
        first, second = again(messages[at : at + 2], rng)
        if where == "texts":
            words = f" {form.format(mark)}" if what == "counter" else f" [{mark}]"
            first["content"] += words
            second["content"] += words
        elif where == "result":
            second["content"] += f" as of {mark}" if what == "time" else f" {form.format(mark)}"
        else:
            function = first["tool_calls"][0]["function"]
            args = json.loads(function["arguments"])
            function["arguments"] = json.dumps({**args, "requested_at" if what == "time" else "attempt": mark})
        told = [*told, first, second]
    return lambda: prefixes(told)


def paraphrased(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    at = rng.choice(exchanges_of(messages))
    told = messages[:at]
    for _ in range(times):
        first, second = again(messages[at : at + 2], rng)
        first["content"] = rng.choice(PHRASES["assistant"]).format(first["content"])
        second["content"] = rng.choice(PHRASES["user"]).format(second["content"])
        told = [*told, first, second]
    return lambda: prefixes(told)


def paraphrased_step(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    at = rng.choice(steps_of(messages))
    asked = next((m["content"] for m in reversed(messages[:at]) if m["role"] == "user"), "look again")
    told = messages[: at + 2]
    for _ in range(times):
        answer = rng.choice(PHRASES["assistant"]).format("Here is what I found.")
        told = [
            *told,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": rng.choice(PHRASES["user"]).format(asked)},
            *again(messages[at : at + 2], rng),
        ]
    return lambda: prefixes(told)


WRAPPED: dict[str, Callable[[str, int, int], str]] = {
    "an epoch in JSON": lambda said, n, at: json.dumps({"data": said, "epoch": at + 17 * n}),
    "milliseconds in JSON": lambda said, n, at: json.dumps({"at": (at + 17 * n) * 1000 + n * 7 % 1000, "result": said}),
    "n in JSON": lambda said, n, at: json.dumps({"n": n, "result": said}),
    "a counter in JSON": lambda said, n, at: json.dumps({"result": said, "counter": at % 50 + n}),
    "a request number in JSON": lambda said, n, at: json.dumps({"request_no": at % 900 + n, "output": said}),
    "milliseconds taken in JSON": lambda said, n, at: json.dumps({"output": said, "elapsed_ms": at * n * 37 % 900}),
    "a bare number before": lambda said, n, at: f"{n} {said}",
    "a number and a colon before": lambda said, n, at: f"{n}: {said}",
    "a bare number behind": lambda said, n, at: f"{said} {n}",
    "a bare number below": lambda said, n, at: f"{said}\n{at % 90 + n}",
}


def wrapped(messages: list[Message], rng: random.Random, times: int, what: str) -> Callable[[], Requests]:
    """A step with something that goes on around its result."""
    start, at = rng.randrange(1_780_000_000, 1_790_000_000), rng.choice(steps_of(messages))
    told = messages[:at]
    for number in range(1, times + 1):
        first, second = again(messages[at : at + 2], rng)
        second["content"] = WRAPPED[what](second["content"], number, start)
        told = [*told, first, second]
    return lambda: prefixes(told)


def argued(messages: list[Message], rng: random.Random, times: int, what: str) -> Callable[[], Requests]:
    """A step with something among its arguments that goes on."""
    at, start = rng.choice(steps_of(messages)), rng.randrange(50)
    key = rng.choice(["n", "_", "i", "cnt"] if what == "a terse counter" else ["foo", "pass_through", "lap", "go"])
    told = messages[:at]
    for number in range(1, times + 1):
        first, second = again(messages[at : at + 2], rng)
        function = first["tool_calls"][0]["function"]
        args = json.loads(function["arguments"])
        if what == "a mark":
            name = next((name for name, value in args.items() if isinstance(value, str)), "note")
            args[name] = f"{args.get(name, '')} (#{start + number})"
        else:
            args[key] = start + number
        function["arguments"] = json.dumps(args)
        told = [*told, first, second]
    return lambda: prefixes(told)


STATUS = {
    "assistant": ["I'm still working on {}.", "{} is still in progress, please hold on.", "Still checking {} for you.",
                  "No news on {} yet, one moment.", "Let me look into {} again.", "I am waiting for {}, bear with me."],
    "user": ["Any update on {}?", "How is {} going?", "Is {} done yet?", "Please keep me posted on {}.",
             "Still waiting for {}.", "OK, and {}?"],
}  # fmt: skip
TOPICS = ["the refund", "your booking", "the seat change", "the baggage claim", "the report", "that flight"]


def status_talk(messages: list[Message], rng: random.Random, times: int) -> Callable[[], Requests]:
    """Two who keep each other waiting, in ever other words."""
    told = messages[: rng.choice(exchanges_of(messages))]
    topic = rng.choice(TOPICS)
    for _ in range(times):
        for who in ("assistant", "user"):
            said = rng.choice(STATUS[who]).format(topic)
            told.append({"role": who, "content": said[0].upper() + said[1:]})
    return lambda: prefixes(told)


@dataclass(frozen=True)
class Figures:
    """Of one evaluation: runs and how many of them were stopped, by kind."""

    by_kind: dict[str, tuple[int, int]]
    runs: list[Run]

    def of(self, kinds: Collection[str]) -> tuple[int, int]:
        """How many runs there were of some kinds, and how many were stopped."""
        counts = [self.by_kind.get(kind, (0, 0)) for kind in kinds]
        return sum(total for total, _ in counts), sum(stopped for _, stopped in counts)

    @property
    def looping(self) -> tuple[int, int]:
        return self.of([kind for kind in self.by_kind if kind not in CLEAN])

    @property
    def recall(self) -> float:
        total, stopped = self.looping
        return stopped / max(1, total)

    @property
    def precision(self) -> float:
        """Of all that was stopped, what loops; of the real runs only one that was solved is surely none."""
        stopped = self.looping[1]
        return stopped / max(1, stopped + self.of([*KINDS, "solved"])[1])

    @property
    def precision_if_no_failed_run_loops(self) -> float:
        stopped = self.looping[1]
        return stopped / max(1, stopped + self.of(CLEAN)[1])


CLEAN = frozenset({"solved", "failed", *KINDS})


def evaluate(runs: list[dict[str, Any]], seed: int = 1, each: int = 40, policy: LoopPolicy | None = None) -> Figures:
    memory = Memory(b"evaluation")
    mixed = [*clean_runs(runs), *loops(runs, seed, each), *meant_runs(seed, each)]
    random.Random(seed).shuffle(mixed)
    by_kind: dict[str, tuple[int, int]] = {}
    for run in mixed:
        replay(run, policy or LoopPolicy(), memory)
        total, stopped = by_kind.get(run.kind, (0, 0))
        by_kind[run.kind] = total + 1, stopped + (run.stopped is not None)
    return Figures(dict(sorted(by_kind.items())), mixed)


def main(path: Path, seed: int) -> None:
    figures = evaluate(load(path), seed)
    for title, clean in (("loops", False), ("meant work and real runs", True)):
        print(f"\n{title:44} {'runs':>5} {'stopped':>8}")
        for kind, (total, stopped) in figures.by_kind.items():
            if (kind in CLEAN) is clean:
                print(f"{kind:44} {total:5} {stopped:8} {stopped / total:8.2f}")
    print(
        f"\nprecision {figures.precision:.3f} "
        f"(with failed runs as clean: {figures.precision_if_no_failed_run_loops:.3f}), recall {figures.recall:.3f}"
    )
    for run in [each for each in figures.runs if each.kind in CLEAN and each.stopped][:MOST_SHOWN]:
        if run.stopped is not None:
            print(f"\nstopped for nothing: {run.name}, request {run.at}: {run.stopped.message}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TRACES, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
