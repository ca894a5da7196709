"""What a provider counted for one call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct

_NOTHING: Mapping[str, int] = MappingProxyType({})


class Usage(Struct, frozen=True, gc=False):
    """Counters of one call, under the usage keys of ``genai-prices``.

    ``input_tokens`` is the whole input, cached tokens included; ``output_tokens`` the whole output, reasoning
    included. A counter that the provider did not report is absent, which is not zero. ``estimated`` marks
    figures that were computed here because the provider's own never arrived.
    """

    counts: Mapping[str, int] = _NOTHING
    estimated: bool = False

    @property
    def input_tokens(self) -> int | None:
        """All input tokens, cached ones included."""
        return self.counts.get("input_tokens")

    @property
    def output_tokens(self) -> int | None:
        """All output tokens, reasoning included."""
        return self.counts.get("output_tokens")

    @property
    def cache_read_tokens(self) -> int | None:
        """Input tokens that were read from the provider's cache."""
        return self.counts.get("cache_read_tokens")

    @property
    def cache_write_tokens(self) -> int | None:
        """Input tokens that were written to the provider's cache."""
        return self.counts.get("cache_write_tokens")

    @property
    def reasoning_tokens(self) -> int | None:
        """Output tokens that were spent on reasoning."""
        return self.counts.get("output_reasoning_tokens")
