"""Real runs pass, and loops built from them are caught; the figures of ``tests/loops/evaluate.py`` as a test."""

from __future__ import annotations

import pytest

from tests.loops.evaluate import TRACES, Figures, evaluate, load
from tests.loops.meant import KINDS

pytestmark = pytest.mark.skipif(not TRACES.exists(), reason=f"the real runs are not there: {TRACES}")


@pytest.fixture(scope="module", params=[11, 12])
def figures(request: pytest.FixtureRequest) -> Figures:
    return evaluate(load(), seed=request.param, each=8)


def test_no_run_that_was_solved_is_stopped(figures: Figures) -> None:
    stopped = [f"{run.name}, request {run.at}: {run.stopped.message}" for run in figures.runs if run.stopped]
    assert [each for each in stopped if each.startswith("solved")] == []
    assert (figures.by_kind["solved"], figures.by_kind["failed"]) == ((43, 0), (57, 0))


def test_meant_work_is_not_stopped(figures: Figures) -> None:
    assert {kind: figures.by_kind[kind][1] for kind in KINDS} == dict.fromkeys(KINDS, 0)


def test_loops_are_caught_and_little_else(figures: Figures) -> None:
    print(f"\nprecision {figures.precision:.3f}, recall {figures.recall:.3f}")
    assert figures.precision_if_no_failed_run_loops >= 0.95
    assert figures.recall >= 0.90


def test_a_loop_is_stopped_early(figures: Figures) -> None:
    """A step that would go round a hundred times is stopped before it is made a fourth time."""
    for run in figures.runs:
        if run.kind.startswith(("step x100", "request x100")):
            assert run.stopped is not None
            assert run.stopped.count == 3
