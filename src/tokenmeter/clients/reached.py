"""How far a request came that ended in an error: read from where the error was raised.

The libraries have an error class for most of what happens before a request goes out. For the rest (a closed client, a
hook or an auth flow of the caller's that raises, a task that is cancelled while it waits for a connection) the frames
of the traceback tell. They are the libraries' own, so only what they say for sure is taken; else the request counts
as sent.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

_BEFORE_TRANSPORT: Final = frozenset({"send", "_send_handling_auth", "_send_handling_redirects"})
_TRANSPORT: Final = "_send_single_request"
_CONNECTING: Final = frozenset({"wait_for_connection", "_connect"})  # of httpcore, before it writes anything


class Reached(NamedTuple):
    """``unsent``: no byte of the request went out. ``status``: of the answer that was there, if any."""

    unsent: bool = False
    status: int | None = None


def reached(library: str, response_class: type[Any], error: BaseException) -> Reached:
    """How far the request came that ended in this error of ``httpx`` or ``httpx2``."""
    client = f"{library}._client"
    core = "httpcore2." if library == "httpx2" else "httpcore."
    found = Reached()
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module == client and name in _BEFORE_TRANSPORT:
            response: Any = frame.f_locals.get("response")
            status = response.status_code if isinstance(response, response_class) else found.status
            found = Reached(unsent=status is None, status=status)
        elif module == client and name == _TRANSPORT:
            found = Reached()
        elif module.startswith(core) and name in _CONNECTING:
            return Reached(unsent=True)
        step = step.tb_next
    if found.unsent and isinstance(error, KeyboardInterrupt | SystemExit):
        return Reached()  # it may come between two steps, when the answer has no name yet
    return found
