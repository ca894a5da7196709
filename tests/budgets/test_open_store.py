from __future__ import annotations

from typing import Any

import pytest

from tokenmeter.budgets import MemoryStore, open_store
from tokenmeter.errors import ConfigError


def test_memory() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize("url", ["redis://:secret@host/0", "memory", "sqlite:///x?key=secret", "", None, 5])
def test_other_addresses_are_refused_without_telling_secrets(url: Any) -> None:
    with pytest.raises(ConfigError, match="this version has memory://") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
