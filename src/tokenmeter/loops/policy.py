"""How deep agents may be nested."""

from __future__ import annotations

from dataclasses import dataclass

from tokenmeter.attribution import Scope
from tokenmeter.errors import ConfigError, DepthExceeded


@dataclass(frozen=True, slots=True)
class LoopPolicy:
    """Limits that stop runaway agents. ``max_depth`` counts nested agents; ``None`` lifts a limit."""

    max_depth: int | None = 10

    def __post_init__(self) -> None:
        depth: object = self.max_depth
        if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
            raise ConfigError(f"max_depth is {depth!r}; give a whole number of at least 1, or None for no limit")

    def guard(self, scope: Scope) -> None:
        """Raise :class:`DepthExceeded` when the call stands too deep."""
        if self.max_depth is None or scope.depth <= self.max_depth:
            return
        raise DepthExceeded(
            f"agent {scope.agent!r} stands at depth {scope.depth}, and max_depth is {self.max_depth}: "
            f"{_shown(scope.path)}. If this nesting is meant, raise LoopPolicy(max_depth=…).",
            agent=scope.agent,
            depth=scope.depth,
            max_depth=self.max_depth,
            path=scope.path,
            run=scope.run,
        )


def _shown(path: tuple[str, ...]) -> str:
    if len(path) <= 12:
        return " → ".join(path)
    return " → ".join((*path[:6], f"… {len(path) - 12} more …", *path[-6:]))
