"""The page: one small file that asks nobody, in which nobody's name is markup, and that can be read anywhere."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("jinja2")

from tests.report import browser
from tests.report.ledgers import HOSTILE, NOW_S, fill, fresh
from tests.report.test_data import month_book
from tokenmeter.outcomes import Rules
from tokenmeter.report import ReportData, read
from tokenmeter.report.html import to_html

needs_chromium = pytest.mark.skipif(browser.missing() is not None, reason=browser.missing() or "")
MOST_BYTES = 200_000
TEAMS = ("growth", "platform", "search", "support")


class Reader(HTMLParser):
    """The tags of a page, its attributes and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "rect", "path", "circle") or self.open[-1:] == ["svg"]:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    with fresh(tmp_path_factory.mktemp("ledger")) as ledger:
        fill(ledger, days=30, agents=("coder", "triage", *HOSTILE))
        support = sum(hour.nanos for hour in ledger.hours(1_777_593_600, NOW_S, team="support"))
        books = [month_book("team=support", support), month_book("global", 5, budget="<b>all</b>")]
        books += [month_book(f"user=person1x{n}", n * 10**10, budget="$80 per month per user") for n in range(6)]
        # One of each team is in no directory, so that some spend stays unattributed.
        teams = {f"person{place}x{n}": team for place, team in enumerate(TEAMS) for n in range(5)}
        return read(ledger, until_s=NOW_S, now_s=NOW_S, books=books, me="person1x2", rules=Rules(teams=teams))


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return to_html(data)


def test_the_page_asks_nobody_and_runs_nothing(page: str) -> None:
    tags = Reader(page).tags

    assert not {"script", "iframe", "object", "embed", "img", "audio", "video", "base"} & {tag for tag, _ in tags}
    for tag, attributes in tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style"
            if name in ("href", "src", "action", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:,")), (tag, value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"https?://", page.replace("http://evil.test/x", ""))
    [policy] = [each["content"] for _, each in tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_names_of_strangers_are_text(page: str) -> None:
    reader = Reader(page)

    for name in HOSTILE:
        assert name in reader.text, name
    assert "<b>all</b>" in reader.text
    assert "<script" not in page
    assert "<img" not in page


def test_what_is_unattributed_stands_first(page: str) -> None:
    main = page[page.index("<main") :]

    assert main.index("Unattributed spend") < main.index("<dl") < main.index("<svg")
    rows = re.findall(r'<th scope="row" class="name">(.*?)</th>', page[page.index('id="teams"') :])
    assert rows[0] == "(unattributed)"


def test_a_large_company_fits_into_a_small_page(tmp_path: Path) -> None:
    teams = tuple(f"team {n:02d} of a large company" for n in range(60))
    with fresh(tmp_path) as ledger:
        fill(ledger, days=90, teams=teams, agents=tuple(f"agent number {n:03d}" for n in range(120)), runs_a_day=1)
        page = to_html(read(ledger, until_s=NOW_S, now_s=NOW_S))

    size = len(page.encode())
    print(f"\n60 teams, 120 agents, 90 days: {size:,} bytes")
    assert size < MOST_BYTES
    assert page.count("of a large company") >= 60


def test_each_drawing_has_a_text_and_its_figures_as_a_table(page: str) -> None:
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)

    assert len(charts) >= 6
    for chart in charts:
        labels = re.search(r'role="img" aria-labelledby="(\S+) (\S+)"', chart)
        assert labels
        assert re.search(rf'<title id="{labels[1]}">[^<]+</title><desc id="{labels[2]}">[^<]+</desc>', chart)
    figures = page.count("<figure>")
    assert figures == len(charts) == page.count("<details><summary>The figures of")
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_page_is_a_document_that_can_be_listened_to(page: str) -> None:
    reader = Reader(page)
    names = [tag for tag, _ in reader.tags]

    assert names.count("h1") == names.count("main") == names.count("title") - page.count("<title id=") == 1
    assert ("html", {"lang": "en"}) in reader.tags
    assert any(attributes.get("name") == "viewport" for _, attributes in reader.tags)
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_the_ground() -> None:
    from tokenmeter.report.html import style

    blocks = re.findall(r"color-scheme:(light|dark);([^}]*)\}", style())
    assert [name for name, _ in blocks] == ["light", "dark", "dark"]
    assert re.sub(r"\s", "", blocks[1][1]) == re.sub(r"\s", "", blocks[2][1]), "the two ways to the dark are the same"
    for name, block in blocks:
        colours = {key: value if len(value) == 7 else f"#{value[1] * 2}{value[2] * 2}{value[3] * 2}"
                   for key, value in re.findall(r"--(\w+):(#[0-9a-f]{3,6})", block)}  # fmt: skip
        for ground in ("bg", "card"):
            for text in ("ink", "dim", "link"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (name, text, ground)
        for drawn in ("un", "ot", *(f"c{n}" for n in range(8))):
            assert contrast(colours[drawn], colours["bg"]) >= 2.2, (name, drawn)
        assert contrast(colours["un"], colours["bg"]) >= 4.5  # it is the colour of a text, too


# -- in a browser


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [browser.WIDE, browser.PHONE], ids=["wide", "phone"])
def test_no_text_lies_upon_another(data: ReportData, theme: str, size: tuple[int, int], tmp_path: Path) -> None:
    found = browser.looked_at(to_html(data, theme=theme), tmp_path, size)

    assert found["texts"] > 200
    assert found["overlaps"] == []
    assert found["wide"] == []
    assert found["scroll"] <= 0
    assert found["small"] == []
    assert found["dark"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[theme]
    assert len(found["fills"]) >= 8


@needs_chromium
def test_the_page_follows_the_system(data: ReportData, tmp_path: Path) -> None:
    dark = browser.looked_at(to_html(data), tmp_path, browser.WIDE, "--blink-settings=preferredColorScheme=0")
    light = browser.looked_at(to_html(data), tmp_path, browser.WIDE, "--blink-settings=preferredColorScheme=1")

    assert (dark["dark"], light["dark"]) == ("rgb(20, 23, 27)", "rgb(255, 255, 255)")


@needs_chromium
def test_the_page_is_seen_and_asks_no_host(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    picture = tmp_path / "report.png"

    browser.screenshot(file.as_uri(), picture, browser.WIDE)

    assert picture.stat().st_size > 20_000
    assert browser.hosts(file.as_uri(), tmp_path) <= {""}


@needs_chromium
def test_a_page_that_asks_a_host_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "asks.html"
    file.write_text('<img src="http://elsewhere.test/x.png">', encoding="utf-8")

    assert "elsewhere.test" in browser.hosts(file.as_uri(), tmp_path)
