"""``tokenmeter.toml``: budgets, loops, prices, the store, telemetry, and how outcomes count, in a file.

load      a file read and checked, each error with its file, line and remedy
outcomes  kinds of outcomes, the rules of counting, and who is on which team
tables    how one table is read: which keys it knows, and of which type
lines     which line each key is on
watch     checks whether the file has changed
"""

from __future__ import annotations

from tokenmeter.config.load import Config, find_config, load_config, load_outcomes
from tokenmeter.config.watch import Watched

__all__ = ["Config", "Watched", "find_config", "load_config", "load_outcomes"]
