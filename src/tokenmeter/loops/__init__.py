"""Loops: where a call is in its run, and whether it brings anything new. Pure decisions; time is passed in.

policy        the limits, and what is done when one is passed
guard         one question to all of them: `judge`; start reading here
findings      what they get to know, and what they found, in words
history       what a conversation repeats, read from the request itself
memory        what this process remembers of requests: fingerprints, counts and rates, bounded
fingerprints  the same request, and nearly the same one, as keyed hashes
alike         when two texts say the same
steps, asked  the turns of a request, in every protocol
lineage       root, run, depth and path as one short text, signed where there is a key
carriers      how that text travels: headers, baggage, MCP
"""

from tokenmeter.loops.policy import Limits as Limits
from tokenmeter.loops.policy import LoopPolicy as LoopPolicy
