"""The seam to lm15."""

from __future__ import annotations

from lm15 import transports

from tokenmeter.clients.lm15_transports import Transports

LIBRARY = Transports(transports)
