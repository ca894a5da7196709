"""``[store]``: a wrong address is told with its line, without its password, and without a driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenmeter.config import load_config
from tokenmeter.errors import ConfigError


def refused(folder: Path, url: str, line: str = "url = '{}'") -> str:
    path = folder / "tokenmeter.toml"
    path.write_text(f"[meter]\n\n[store]\n# where the books are\n{line.format(url)}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:5: [store] ")
    assert "s3cret" not in text
    return text


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("sqlit:///x", "store scheme 'sqlit://' is unknown; this version has memory://, sqlite:///FILE"),
        ("postgresql://me:s3cret@host/x", "store scheme 'postgresql://' is unknown"),
        ("memory://x", "'memory://' is unknown"),
        ("s3 s3cret://x", "that is no address of a store"),
        ("sqlite:///x.db?timeout=3", "sqlite option 'timeout' is unknown; there are timeout_s"),
        ("sqlite:///x.db?keep_days=many", "sqlite keep_days='many' is no number"),
        ("sqlite://x.db", "it takes three slashes"),
        ("sqlite:///x.db?leases=maybe", "choose on or off"),
        ("redis://me:s3cret@host/zero", "redis database 'zero' is no number"),
        ("redis://me:s3cret@host?tenat=x", "did you mean 'tenant'?"),
        ("redis://me:s3cret@host?lease_s=0.6&timeout_s=1", "give five times that"),
        ("redis://me:1/s3cret@host", "in a login write %, #"),
        ("redis://me:1?s3cret@host", "in a login write %, #"),
        ("redis+sentinel://me:s3cret@host", "needs the name of the service"),
    ],
)
def test_an_address_that_makes_no_sense(url: str, part: str, tmp_path: Path) -> None:
    assert part in refused(tmp_path, url)


def test_an_address_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", "redis://me:s3cret@host?tenat=x")
    assert "[store] url_env = " in refused(tmp_path, "STORE", "url_env = '{}'")


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "sqlite:////var/a%20b.db?leases=on&synchronous=full",
        "redis://me:p%40ss@host:1/0?leases=off&state_dir=/a@b",
        "redis+cluster://a,b:7000?tenant=x",
        "rediss+sentinel://a,b/main/2?ssl_ca_certs=/a.pem&sentinel_password=a@b",
    ],
)
def test_addresses(url: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenmeter.toml"
    path.write_text(f"[store]\nurl = '{url}'\n")
    assert load_config(path).store == url


def test_no_driver_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "tokenmeter.toml"
    path.write_text("[store]\nurl = 'redis://host'\n")
    code = (
        f"import sys; from tokenmeter.config import load_config; load_config({str(path)!r}); "
        "sys.exit(bool({'redis', 'sqlite3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
