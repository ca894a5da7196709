"""What came of the spend, for those who answer for it: on a terminal, as a page, as files, and served on this machine.

data       one frozen record of a window: everything that is shown anywhere
gathering  what is read from a ledger for it: sums, never single calls
narrowing  the part of it that belongs to one team or one agent
shown      under which names: small groups are folded, people are not named
series     sums over time
adopted    what part of each team used AI at all
burn       budgets, and how their money went
depth      how deep runs went, and what was stopped
terminal   text tables
html       one page; `view` has its words, `drawings` and `charts` its figures, `grids` its tables
exports    JSON and CSV
focus      CSV with the columns of FOCUS
server     the page over HTTP; `pages` has its drill-down, `access` says who may read
"""

from __future__ import annotations

from tokenmeter.ledger.views import Sums
from tokenmeter.report.data import Line, ReportData, read
from tokenmeter.report.exports import to_csv, to_json
from tokenmeter.report.focus import to_focus

__all__ = ["Line", "ReportData", "Sums", "read", "to_csv", "to_focus", "to_json"]
