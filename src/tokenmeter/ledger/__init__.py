"""The rows that last, and how they are read."""

from tokenmeter.ledger.memory import MemoryLedger as MemoryLedger
from tokenmeter.ledger.memory import Spend as Spend
