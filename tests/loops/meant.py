"""Work that looks like a loop and is meant: what agents do over and over, with something new each time."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]
NOUNS = """
    harbour ticket engine garden letter window mirror copper violin saddle pepper lantern anchor barrel canvas dagger
    feather goblet hammer island jacket kettle ladder marble needle orchid pillow quarry ribbon sandal tunnel valley
""".split()  # noqa: SIM905
_ids = itertools.count(1)


def step(tool: str, args: dict[str, Any], result: Any) -> list[Message]:
    """A call of a tool and its result."""
    name = f"call_{next(_ids) * 7919:x}Zq"
    function = {"name": tool, "arguments": json.dumps(args)}
    said = result if isinstance(result, str) else json.dumps(result)
    return [
        {"role": "assistant", "content": None, "tool_calls": [{"id": name, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": name, "content": said},
    ]


def begin(rng: random.Random, task: str) -> list[Message]:
    return [
        {"role": "system", "content": "You are an agent that works with tools. Say what you found when you are done."},
        {"role": "user", "content": f"{task} for the {' '.join(rng.sample(NOUNS, 2))}, please."},
    ]


def end() -> list[Message]:
    return [{"role": "assistant", "content": "All done."}]


def row(rng: random.Random, number: int) -> dict[str, Any]:
    return {"id": number, "name": " ".join(rng.sample(NOUNS, 3)), "price": rng.randrange(100, 9_000) / 100}


def pagination(rng: random.Random) -> list[Message]:
    told, size = begin(rng, "List all entries"), rng.randrange(2, 9)
    key, by = rng.choice([("page", 1), ("offset", size), ("cursor", 1), ("start_row", 100)])
    for number in range(rng.randrange(6, 25)):
        rows = [row(rng, 1_000 + number * size + n) for n in range(size)]
        told += step("list_entries", {"folder": "all", key: number * by}, {"entries": rows, "more": True})
    return told + end()


def reader(rng: random.Random) -> list[Message]:
    told, path = begin(rng, "Read the log"), f"/var/log/{rng.choice(NOUNS)}.log"
    for number in range(rng.randrange(5, 20)):
        lines = "\n".join(f"{number * 40 + n}: {' '.join(rng.sample(NOUNS, 5))}" for n in range(8))
        told += step("read_file", {"path": path, "line": number * 40}, lines)
    return told + end()


def files(rng: random.Random) -> list[Message]:
    told, base = begin(rng, "Look at the chapters"), rng.randrange(50)
    for number in range(rng.randrange(5, 20)):
        said = f"Chapter {number}. {' '.join(rng.choices(NOUNS, k=30))}"
        told += step("read_file", {"path": f"chapter_{base + number:02}.md"}, said)
    return told + end()


def poll(rng: random.Random) -> list[Message]:
    """A job that says how far it is, in one of many ways, and at last is done."""
    told, rounds, total = begin(rng, "Wait for the export"), rng.randrange(5, 20), rng.randrange(40, 400)
    job = f"job-{rng.randrange(10**6)}"
    by = rng.choice([1, 1, 2, 5, 10])
    forms: list[Callable[[int], Any]] = [
        lambda n: f"{n * 4}% done",
        lambda n: f"Progress: {n * 5} %",
        lambda n: {"job": job, "status": "running", "progress": n * 4},
        lambda n: {"job": job, "state": "RUNNING", "done": n * by, "of": total},
        lambda n: {"job": job, "status": "processing", "remaining": total - n * by},
        lambda n: f"Processed {n * by} of {total} rows",
        lambda n: f"Still running: {n * by}/{total}",
        lambda n: f"Uploading chunk {n}",
        lambda n: f"You are number {rounds + 2 - n} in the queue",
        lambda n: {"queue": "exports", "position": rounds + 2 - n},
        lambda n: {"job": job, "details": {"owner": "alice", "region": "eu", "notes": "nightly export of all " * 9},
                   "status": "running", "completed_tasks": n},
        lambda n: {"status": ["queued", "starting", "running", "finishing"][min(3, n // 5)], "step": n, "job": job},
        lambda n: f"Building [{'#' * n}{'.' * (20 - n)}]",
        lambda n: {"uploaded_bytes": 4_096 * n, "file": f"{job}.tar.gz", "host": "files.example.com"},
        lambda n: f"downloaded {n} files so far",
    ]  # fmt: skip
    form = rng.choice(forms)
    for number in range(1, rounds):
        told += step("get_job", {"id": job}, form(number))
    return [*told, *step("get_job", {"id": job}, {"status": "done", "rows": total}), *end()]


def growing(rng: random.Random) -> list[Message]:
    """The same question, to which a list grows or shrinks."""
    told, have = begin(rng, "Collect the answers"), rng.sample(NOUNS, 28)
    shrinks = rng.random() < 0.5
    for number in range(3, rng.randrange(6, 20)):
        told += step("list_open", {"box": "in"}, {"open": have[number:] if shrinks else have[:number]})
    return told + end()


def batch(rng: random.Random) -> list[Message]:
    """One write after the other, each acknowledged in the same words."""
    told, first = begin(rng, "Archive the mails"), rng.randrange(100, 900)
    answer = rng.choice(['{"status": "ok"}', "done", "Archived.", '{"success": true, "affected": 1}', ""])
    key = rng.choice(["mail_id", "id", "row", "item"])
    for number in range(rng.randrange(6, 30)):
        told += step("archive", {"folder": "inbox of 2026", key: first + number}, answer)
    return told + end()


def scan(rng: random.Random) -> list[Message]:
    """Ids that are looked up one after the other, most of them in vain."""
    told, first, by = begin(rng, "Find the order"), rng.randrange(1_000, 9_000), rng.choice([1, 1, 7])
    for number in range(rng.randrange(6, 20)):
        hit = rng.random() < 0.3
        found: Any = row(rng, first + number) if hit else {"error": "order not found"}
        told += step("get_order", {"shop": "north", "order": first + number * by}, found)
    return told + end()


def dates(rng: random.Random) -> list[Message]:
    told, month = begin(rng, "Find a free day"), rng.randrange(1, 13)
    for day in range(1, rng.randrange(6, 28)):
        told += step("search_flights", {"from": "JFK", "to": "SEA", "date": f"2026-{month:02}-{day:02}"}, "[]")
    return told + end()


def retries(rng: random.Random) -> list[Message]:
    """A tool that fails once or twice and then works, over and over."""
    told = begin(rng, "Fetch the pages")
    for _ in range(rng.randrange(4, 10)):
        page = f"https://example.com/{rng.choice(NOUNS)}/{rng.randrange(10**4)}"
        for _ in range(rng.randrange(0, 3)):
            told += step("fetch", {"url": page}, "Error: 503 Service Unavailable, try again")
        told += step("fetch", {"url": page}, " ".join(rng.choices(NOUNS, k=25)))
    return told + end()


def fixes(rng: random.Random) -> list[Message]:
    """Tests that are run after each change; at times the change doesn't help."""
    told, failing = begin(rng, "Make the tests pass"), rng.sample(NOUNS, rng.randrange(3, 9))
    while failing:
        text = " ".join(rng.choices(NOUNS, k=6))
        told += step("edit", {"path": f"src/{failing[-1]}.py", "new": text}, "edited")
        if rng.random() < 0.7:
            failing.pop()
        names = " ".join(f"test_{name}" for name in failing)
        took = rng.randrange(10, 99)
        said = f"{len(failing)} failed, {40 - len(failing)} passed in 0.{took}s: {names}"
        told += step("run_tests", {}, said)
    return told + end()


def chat(rng: random.Random) -> list[Message]:
    """A long talk in which one side says little, and the other has news each time."""
    told = begin(rng, "Tell me a story")
    short = [
        "ok",
        "thanks",
        "Thanks!",
        "Go on.",
        "yes",
        "Yes, please.",
        "I see",
        "great, thank you",
        "ok, next",
        "sure",
    ]
    for _ in range(rng.randrange(8, 25)):
        words = " ".join(rng.sample(NOUNS, rng.randrange(4, 12)))
        told.append({"role": "assistant", "content": f"Then the {words}. Shall I go on?"})
        told.append({"role": "user", "content": rng.choice(short)})
    return told + end()


def choices(rng: random.Random) -> list[Message]:
    """Short questions one after the other, each about something else, answered by yes or no."""
    told = begin(rng, "Plan a journey")
    form = rng.choice(["Shall I take the {}?", "Would you like the {} one?", "Is the {} ok?", "What about {}?"])
    for word in rng.sample(NOUNS, rng.randrange(5, 12)):
        told.append({"role": "assistant", "content": form.format(word)})
        told.append({"role": "user", "content": rng.choice(["No.", "no", "No, thanks.", "Another one, please."])})
    return told + end()


def slots(rng: random.Random) -> list[Message]:
    """A time is looked for: the questions differ in a number, and so does what they mean."""
    told, hour = begin(rng, "Find a time"), rng.randrange(7, 10)
    for number in range(rng.randrange(5, 10)):
        told.append({"role": "assistant", "content": f"Would {hour + number} o'clock on Monday suit you?"})
        told.append({"role": "user", "content": rng.choice(["No.", "Later, please.", "No, that is too early."])})
    return told + end()


def farewell(rng: random.Random) -> list[Message]:
    """A conversation that ends politely."""
    told = chat(rng)
    for one, other in [("Thank you so much!", "You're welcome! Anything else?"), ("No, that's all. Bye!", "Goodbye!")]:
        told += [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
    return told


def sensor(rng: random.Random) -> list[Message]:
    told, value = begin(rng, "Watch the gauge"), rng.randrange(15, 25) * 10
    for _ in range(rng.randrange(5, 20)):
        value += rng.randrange(-9, 10) or 3
        told += step("read_gauge", {"name": "boiler"}, {"gauge": "boiler in the cellar", "value": value / 10})
    return told + end()


KINDS: dict[str, Callable[[random.Random], list[Message]]] = {
    "pages of a list": pagination,
    "pages of a file": reader,
    "consecutive files": files,
    "a job that goes on": poll,
    "a list that grows": growing,
    "items of a batch": batch,
    "a scan of ids": scan,
    "a search by date": dates,
    "retries that succeed": retries,
    "tests and fixes": fixes,
    "a chat with short answers": chat,
    "short questions": choices,
    "times of a day": slots,
    "a polite end": farewell,
    "a gauge": sensor,
}


def meant(seed: int, each: int) -> Iterator[tuple[str, list[Message]]]:
    """Conversations of every kind."""
    rng = random.Random(seed)
    for kind, make in KINDS.items():
        for _ in range(each):
            yield kind, make(random.Random(rng.random()))
