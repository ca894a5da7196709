"""The seam to the copy of lm15 that DSPy carries."""

from __future__ import annotations

import importlib

from tokenmeter.clients.lm15_transports import Transports

LIBRARY = Transports(importlib.import_module("dspy._vendor.lm15.transports"))
