"""Loop and depth limits: pure decisions on where a call stands."""

from tokenmeter.loops.policy import LoopPolicy as LoopPolicy
