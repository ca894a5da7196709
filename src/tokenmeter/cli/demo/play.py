"""The demonstration from its beginning to its end."""

from __future__ import annotations

import json

from tokenmeter import Meter, Refused
from tokenmeter.cli.demo import cast
from tokenmeter.cli.demo.clients import http_library
from tokenmeter.cli.demo.figures import Figures, work_out
from tokenmeter.cli.demo.pipeline import Pipeline
from tokenmeter.cli.demo.screen import Screen, choose
from tokenmeter.cli.trouble import FAILURE, Trouble
from tokenmeter.testing import CapturedCalls, ScriptedProvider

EXPECTED_REFUSALS = 3


def play(*, plain: bool, as_json: bool) -> int:
    """Let the agents run and show what came of it. Raises `Trouble`."""
    http_library()
    pipeline = Pipeline()
    screen = choose(plain=plain, as_json=as_json)
    try:
        found = _perform(screen, pipeline)
    except cast.NotStopped as agent:
        raise Trouble(f"nobody stopped {agent} within {cast.PATIENCE} calls", FAILURE) from None
    screen.finish(found)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    return 0 if found.balanced and len(found.refusals) == EXPECTED_REFUSALS else 1


def _perform(screen: Screen, pipeline: Pipeline) -> Figures:
    calls = CapturedCalls()
    refusals: list[tuple[str, Refused]] = []

    def refused(agent: str, refusal: Refused) -> None:
        refusals.append((agent, refusal))
        screen.refused(agent, refusal)

    meter = Meter(
        cast.BUDGETS,
        loops=cast.LOOPS,
        tracer_provider=pipeline.tracer_provider,
        meter_provider=pipeline.meter_provider,
        metric_labels=("agent", "team"),
        recorders=(calls, screen),
    )
    with meter, ScriptedProvider(cast.answer) as provider, ScriptedProvider(cast.SLOW) as slow:
        stage = cast.Stage(meter, provider, slow, screen.say, refused)
        screen.start(meter)
        try:
            for part in cast.CAST:
                part(stage)
        finally:
            screen.stop()
        billed, abandoned = provider.wait_idle(), slow.wait_idle()
        meter.flush()
        return work_out(
            meter, list(calls), refusals, billed=billed, abandoned_billed=abandoned, spans=pipeline.finish()
        )
