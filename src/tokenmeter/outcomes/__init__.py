"""What came of the spend: outcomes that somebody else accepted, what they cost, and what was wasted.

`link` says which runs led to them, `judge` which of them count, `normalize` what they cost by team, agent, model and
kind, `find_waste` what bought nothing, `adoption` how many used AI at all. All of these are functions of sums and
outcomes: they read nothing and write nothing. Importers and an endpoint bring outcomes in.
"""

from __future__ import annotations

from tokenmeter.outcomes.adoption import Adoption, adoption
from tokenmeter.outcomes.harvest import Harvest, Revocation
from tokenmeter.outcomes.judging import Judged, Verdict, judge
from tokenmeter.outcomes.kinds import BUILT_IN, Kind, Kinds, declare, new_outcome
from tokenmeter.outcomes.linking import link
from tokenmeter.outcomes.normalized import Normalized, Row, normalize, report
from tokenmeter.outcomes.own import Own, own_figures
from tokenmeter.outcomes.rules import Rules
from tokenmeter.outcomes.sink import MemorySink, Sink
from tokenmeter.outcomes.waste import Finding, find_waste

__all__ = [
    "BUILT_IN",
    "Adoption",
    "Finding",
    "Harvest",
    "Judged",
    "Kind",
    "Kinds",
    "MemorySink",
    "Normalized",
    "Own",
    "Revocation",
    "Row",
    "Rules",
    "Sink",
    "Verdict",
    "adoption",
    "declare",
    "find_waste",
    "judge",
    "link",
    "new_outcome",
    "normalize",
    "own_figures",
    "report",
]
