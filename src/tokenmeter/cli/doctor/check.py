"""One thing that was looked at."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """``found`` says what there is; ``remedy`` what to do, where it isn't well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """It is well."""
    return Check(name, "ok", found)


def warn(name: str, found: str, remedy: str) -> Check:
    """It works, and somebody should look at it."""
    return Check(name, "warn", found, remedy)


def fail(name: str, found: str, remedy: str) -> Check:
    """It doesn't work."""
    return Check(name, "fail", found, remedy)


def of_error(name: str, error: Exception, remedy: str) -> Check:
    """It doesn't work, in the words of an error; its remedy stands behind the last semicolon, if it has one."""
    found, _, own = " ".join(str(error).split()).rpartition("; ")
    return fail(name, found, own) if found else fail(name, own, remedy)
