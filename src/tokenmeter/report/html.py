"""The page: one file that needs nothing else, neither a network nor JavaScript.

What is shown is put into words before; the templates only place it, and escape all of it but the drawings.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenmeter.errors import ConfigError
from tokenmeter.report.data import ReportData
from tokenmeter.report.grids import safe
from tokenmeter.report.view import view

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES: Final = Path(__file__).parent / "templates"


def to_html(
    data: ReportData, *, theme: str | None = None, refresh_s: int | None = None, links: Sequence[tuple[str, str]] = ()
) -> str:
    """The page. ``theme``: ``"light"`` or ``"dark"``, in place of what the reader's system says."""
    return render("report.html", theme=theme, refresh_s=refresh_s, links=links, **view(data))


def render(template: str, **values: Any) -> str:
    """A template with these values. Raises `ConfigError` when jinja2 is missing."""
    given = {"theme": None, "refresh_s": None, "links": (), "style": safe(style()), "policy": policy(), **values}
    return _environment().get_template(template).render(given)


def policy() -> str:
    """The content security policy of every page: its own style, and nothing from anywhere."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'self'"


@cache
def style() -> str:
    """The style of every page."""
    return (_TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError:
        raise ConfigError(
            "a page needs the package jinja2; install the extra: pip install 'tokenmeter-sdk[report]'"
        ) from None
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
