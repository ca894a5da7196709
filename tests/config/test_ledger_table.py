"""``[ledger]`` in a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenmeter.config import load_config
from tokenmeter.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "tokenmeter.toml"
    path.write_text(text)
    return path


def test_nothing_is_said(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert (config.ledger, config.ledger_keep_days) == (None, 0.0)


def test_a_file_is_beside_the_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, '[ledger]\nurl = "sqlite:///kept.db"\nkeep_days = 400.5'))
    assert (config.ledger, config.ledger_keep_days) == (f"sqlite:///{tmp_path / 'kept.db'}", 400.5)


def test_an_address_from_the_environment_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", "postgresql://u:geheim@h/db")
    config = load_config(write(tmp_path, '[ledger]\nurl_env = "LEDGER_URL"'))
    assert config.ledger == "postgresql://u:geheim@h/db"
    assert "geheim" not in repr(config)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('url = "mysql://u:geheim@h"', ":2: [ledger] url = … is no address of a ledger; write"),
        ('url = "nonsense"', ":2: [ledger] url = … is no address of a ledger"),
        ('url = ""', ":2: [ledger] url = … is no address of a ledger"),
        ('url = "sqlite:///x.db"\nurl_env = "X"', ":3: [ledger] url_env"),
        ('url_env = "NO_SUCH_VARIABLE"', ":2: [ledger] url_env"),
        ("keep_days = -1", ":2: [ledger] keep_days = -1 is no number of days"),
        ("keep_days = true", "keep_days = true is no number of days"),
        ('keep_days = "30"', 'keep_days = "30" is no number of days'),
        ("keep = 3", "[ledger] has no key 'keep'; did you mean 'keep_days'?"),
    ],
)
def test_what_makes_no_sense_is_refused_on_its_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"[ledger]\n{text}"))
    assert part in str(caught.value)
    assert "geheim" not in str(caught.value)
