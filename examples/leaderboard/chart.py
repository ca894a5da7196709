"""The figures as a picture, for the README: each person a point, by what they delivered and where they are ranked."""

from __future__ import annotations

from collections.abc import Sequence

from examples.leaderboard.score import Company, Score, ranks, score

_WIDE, _HIGH, _SIDE, _TOP = 900, 470, 360, 90


def chart(company: Company) -> str:
    """An SVG: the board on the left, normalized outcomes on the right. Both axes are ranks, the best at the far end."""
    people = company.people
    figures: Score = score(company)
    value = ranks([company.books.value[who.user] for who in people])
    tokens = ranks([float(company.books.tokens[who.user]) for who in people])
    units = company.units
    outcomes = ranks([units[who.user] for who in people])
    plays = [who.user in company.ways for who in people]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" role="img" '
        'font-family="system-ui, sans-serif" aria-label="Rank by tokens and rank by normalized outcomes, against what '
        'was delivered">',
        f'<rect width="{_WIDE}" height="{_HIGH}" fill="#fff"/>',
        _text(
            60,
            34,
            f"{len(people)} people, {company.books.weeks} weeks, {len(company.ways)} play for the board",
            18,
            "#1f2328",
        ),
        _panel(60, "Ranked by tokens", figures.board, [*zip(value, tokens, plays, strict=True)]),
        _panel(500, "By normalized outcomes", figures.normalized, [*zip(value, outcomes, plays, strict=True)]),
        '<circle cx="66" cy="458" r="4" fill="#8c959f"/>',
        _text(76, 462, "works", 12, "#57606a"),
        '<circle cx="136" cy="458" r="4" fill="#d1242f"/>',
        _text(146, 462, "plays for the board", 12, "#57606a"),
        _text(500, 462, "Simulated. On the right, each sees only their own point.", 12, "#57606a"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(left: int, title: str, correlation: float, points: Sequence[tuple[float, float, bool]]) -> str:
    scale = (_SIDE - 20) / max(1, len(points) - 1)
    parts = [
        _text(left, 66, title, 15, "#1f2328"),
        _text(left + _SIDE, 66, f"rank correlation {correlation:.2f}", 15, "#1f2328", end=True),
        f'<rect x="{left}" y="{_TOP - 12}" width="{_SIDE}" height="{_SIDE - 16}" fill="#f6f8fa" stroke="#d0d7de"/>',
    ]
    high = (_SIDE - 36) / max(1, len(points) - 1)
    for is_player in (False, True):
        for x, y, playing in points:
            if playing is is_player:
                colour = "#d1242f" if playing else "#8c959f"
                cx, cy = left + 10 + x * scale, _TOP - 2 + (len(points) - 1 - y) * high
                parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.2" fill="{colour}" fill-opacity="0.75"/>')
    parts.append(
        _text(left + _SIDE, _TOP + _SIDE - 12, "true value delivered \N{RIGHTWARDS ARROW}", 12, "#57606a", end=True)
    )
    return "\n".join(parts)


def _text(x: int, y: int, text: str, size: int, colour: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{anchor}>{text}</text>'
