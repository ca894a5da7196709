"""Who does it and why: what a grant and a pause keep for those who read them later."""

from __future__ import annotations

import getpass

from tokenmeter.cli.trouble import Trouble

_MAX_REASON = 500
_MAX_NAME = 256


def reason_of(text: str | None) -> str:
    """The reason, on one line. `Trouble` without one."""
    plain = " ".join((text or "").split())
    if not plain:
        raise Trouble("a --reason is needed, for those who read it later; say why in some words")
    if len(plain) > _MAX_REASON:
        raise Trouble(f"--reason {plain[:40]!r}… has {len(plain)} characters; at most {_MAX_REASON} are kept")
    return plain


def who(name: str | None) -> str:
    """The name that was given, else that of the user of this system."""
    if name is None:
        try:
            name = getpass.getuser()
        except (KeyError, OSError, ImportError):  # a user id without a name
            raise Trouble("the user of this system has no name; give one with --by") from None
    plain = " ".join(name.split())
    if not plain or len(plain) > _MAX_NAME:
        raise Trouble(f"--by {name[:40]!r} is no name; give one of 1 to {_MAX_NAME} characters")
    return plain
