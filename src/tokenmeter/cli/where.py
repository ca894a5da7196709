"""Which store a command speaks to, and which configuration it goes by.

``--store`` wins over the configuration's store; ``--config`` over the file that is found from here. The address may
carry a password: what is shown is made by `shown_address`.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from tokenmeter.budgets import Store, open_store
from tokenmeter.budgets.address import split_leases
from tokenmeter.cli.trouble import Trouble
from tokenmeter.config import Config, find_config, load_config
from tokenmeter.errors import ConfigError

_REMEDY = "give --store redis://HOST:6379/0 or --store sqlite:///FILE, or name it in tokenmeter.toml under [store]"
_TIMEOUT_S = 2.0  # people are more patient than calls are


@dataclass(frozen=True, slots=True)
class Where:
    """The address of the store, and the configuration if one is gone by."""

    url: str
    config: Config | None

    @property
    def address(self) -> str:
        """The address for people, without a password."""
        return shown_address(self.url)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that each command has."""
    parser.add_argument("--config", metavar="PATH", help="the configuration; default: tokenmeter.toml here or above")
    parser.add_argument("--store", metavar="URL", help="the store, in place of the one that the configuration names")
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def find(arguments: argparse.Namespace, *, with_policy: bool) -> Where:
    """What the arguments say. Raises `Trouble` or `ConfigError` with the remedy.

    Where a store is named, the configuration is only looked for if its budgets are needed: who pulls the kill switch
    must not be kept by a fault in a file that has nothing to do with it.
    """
    url: str | None = arguments.store
    path = arguments.config
    if path is None and (url is None or with_policy):
        path = find_config()
    config = load_config(path) if path is not None else None
    if url is None:
        if config is None:
            raise Trouble(f"no store is named and no tokenmeter.toml is here or above; {_REMEDY}")
        url = config.store
    if url.partition("://")[0] == "memory":
        named = f"{config.path} keeps its budgets in" if config is not None and not arguments.store else "the store is"
        raise Trouble(f"{named} memory://, which ends with its process and is seen by no other; {_REMEDY}")
    return Where(split_leases(url)[0], config)


def config_of(arguments: argparse.Namespace) -> Config | None:
    """The configuration that is named, else the one that is found from here, if there is one."""
    path = arguments.config or find_config()
    return None if path is None else load_config(path)


@contextlib.contextmanager
def opened(where: Where) -> Iterator[Store]:
    """The store, for the length of a command."""
    if (path := missing_file(where.url)) is not None:
        # A path that is mistyped must not become an empty set of books, in which nothing is spent and nothing paused.
        raise Trouble(f"no file {str(path)!r} is there; correct the path, or start the program, whose Meter makes it")
    store = open_store(_patient(where.url))
    try:
        yield store
    finally:
        store.close()


def shown_address(url: str) -> str:
    """An address without what may be secret in it."""
    scheme, sign, rest = url.partition("://")
    if not sign:
        return "…"
    if scheme.startswith("redis"):
        from tokenmeter.budgets.redis_url import parse_url

        try:
            options = parse_url(url)
        except ConfigError:
            return f"{scheme}://…"
        return options.address + (f"?tenant={options.tenant}" if options.tenant != "default" else "")
    if scheme == "sqlite" and rest.startswith("/"):
        return f"{scheme}://{rest.partition('?')[0]}"
    return url if url == "memory://" else f"{scheme}://…"


def missing_file(url: str) -> Path | None:
    """The file of an address of SQLite that isn't there."""
    if not url.startswith("sqlite:"):
        return None
    from tokenmeter.budgets.sqlite_url import parse_url

    path = parse_url(url).path
    return None if path.is_file() else path


def _patient(url: str) -> str:
    """The address with more time for a Redis that is far away, unless it says itself how much it gives."""
    _, _, query = url.partition("?")
    if not url.startswith("redis") or {"timeout_s", "lease_s"} & {name for name, _ in parse_qsl(query)}:
        return url
    return f"{url}{'&' if query else '?'}timeout_s={_TIMEOUT_S:g}"
