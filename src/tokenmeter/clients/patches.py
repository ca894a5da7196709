"""Patches that can be undone: each puts a wrapper round one attribute of one class or object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenmeter.clients.seam import Wrapper


class Patch:
    """One wrapped attribute. Undone, the very same function stands there again."""

    __slots__ = ("__weakref__", "_attribute", "_had_own", "_original", "_owner", "_wrapper", "on")

    def __init__(self, owner: Any, attribute: str, make: Callable[[Callable[[], bool]], Wrapper]) -> None:
        import wrapt

        self._owner = owner
        self._attribute = attribute
        own = vars(owner)
        self._had_own = attribute in own
        self._original = own.get(attribute)
        self.on = True
        target = self._original if self._had_own and isinstance(owner, type) else getattr(owner, attribute)
        wrapper: Any = wrapt.FunctionWrapper(target, make(self._active))
        wrapper._self_patch = self
        self._wrapper = wrapper
        self._put(wrapper)

    def _active(self) -> bool:
        return self.on

    def undo(self) -> None:
        """Restore what stood there, or fall silent if somebody wrapped it again since."""
        self.on = False
        patch: Patch | None = self
        # Others that fell silent below this one had to leave their wrappers: they go with it.
        while patch is not None and not patch.on and vars(self._owner).get(self._attribute) is patch._wrapper:
            if patch._had_own:
                self._put(patch._original)
            else:
                delattr(self._owner, self._attribute)
            patch = getattr(vars(self._owner).get(self._attribute), "_self_patch", None)

    def _put(self, function: Any) -> None:
        if isinstance(self._owner, type):
            setattr(self._owner, self._attribute, function)
        else:
            vars(self._owner)[self._attribute] = function  # past a ``__setattr__`` that warns, as aiohttp's may
