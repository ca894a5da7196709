"""What to say when an optional package isn't installed."""

from __future__ import annotations


class MissingExtra(Exception):
    """A package of an extra is missing."""

    def __init__(self, package: str, extra: str, why: str) -> None:
        super().__init__(
            f"{package} isn't installed, and {why}. Install the extra: "
            f"pip install 'tokenmeter-sdk[{extra}]', or in a checkout: pip install -e '.[{extra}]'"
        )
