"""What the README and the docs say is true: their Python runs, their links lead somewhere, their commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONTINUED = "# continued"
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_OTHER_PROJECT = re.compile(r"pip3? install\s+(?:-\S+\s+)*['\"]?tokenmeter(?!-sdk)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2]) for found in _FENCE.finditer(text)]


def blocks_in(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


RUNNER = """
import gc, json, sys
namespace = {}
for line, source, continued in json.load(sys.stdin):
    if not continued:
        namespace = {"__name__": "page"}
        gc.collect()
    # the blank lines make the line numbers of a traceback those of the page
    exec(compile("\\n" * (line - 1) + source, sys.argv[1], "exec"), namespace)
"""


def _page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=_page_name
)
def test_the_python_of_a_page_runs(page: Path) -> None:
    found = [block for block in blocks(page) if block.language == "python"]
    for module in ("openai", "anthropic", "httpx", "mcp", "opentelemetry.sdk"):
        if any(re.search(rf"^(from|import) {re.escape(module)}\b", block.text, re.MULTILINE) for block in found):
            pytest.importorskip(module)
    todo = [(block.line, block.text, block.text.startswith(CONTINUED)) for block in found]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), inherited.get("PYTHONPATH")]))

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, str(page)],
        input=json.dumps(todo),
        env={**inherited, "PYTHONPATH": source, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=180,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def test_the_first_python_of_a_page_stands_alone() -> None:
    for page in PAGES:
        python = [block for block in blocks(page) if block.language == "python"]
        assert not python or not python[0].text.startswith(CONTINUED), page


def test_blocks_are_found() -> None:
    assert len(blocks_in("python")) > 15
    assert {block.language for page in PAGES for block in blocks(page)} <= {"python", "console", "toml", "yaml", "text"}


# -- commands ----------------------------------------------------------------------------------------------------


def test_the_readme_has_exactly_the_two_commands() -> None:
    commands = [
        line for block in blocks(ROOT / "README.md") if block.language == "console" for line in block.text.splitlines()
    ]

    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[demo]' && .venv/bin/tokenmeter demo",
        ".venv/bin/pip install -q --upgrade pip && .venv/bin/pip install -q -e '.[demo]' --group test && "
        ".venv/bin/python -m pytest",
    ]


def test_extras_and_groups_that_are_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = set(project["project"]["optional-dependencies"]), set(project["dependency-groups"])
    assert project["project"]["scripts"]["tokenmeter"] == "tokenmeter.cli:main"
    text = "\n".join(block.text for block in blocks_in("console"))

    named_extras = {
        name.strip() for part in re.findall(r"(?:\.|tokenmeter-sdk)\[([^\]]+)\]", text) for name in part.split(",")
    }
    named_groups = set(re.findall(r"--group (\S+)", text))

    assert named_extras, "the scan sees none"
    assert named_extras <= extras
    assert named_groups
    assert named_groups <= groups


# -- settings ----------------------------------------------------------------------------------------------------


CONFIGURATION = {"meter", "store", "ledger", "loops", "prices", "telemetry", "budgets", "outcomes", "teams"}
_VARIABLE = re.compile(r'^\w+_env = "(\w+)"$', re.MULTILINE)
_ADDRESS = re.compile(r"(?:sqlite|rediss?(?:\+(?:cluster|sentinel))?)://[^\s\"',]\S*?(?=[\s\"'}]|$)")


def _is_configuration(block: Block) -> bool:
    return bool(tomllib.loads(block.text).keys() & CONFIGURATION)


def _where(block: Block) -> str:
    return block.where


@pytest.mark.parametrize("block", [b for b in blocks_in("toml") if _is_configuration(b)], ids=_where)
def test_a_configuration_in_toml_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenmeter.config import load_config

    path = tmp_path / "tokenmeter.toml"
    path.write_text(block.text, encoding="utf-8")
    for variable in _VARIABLE.findall(block.text):
        monkeypatch.setenv(variable, "redis://127.0.0.1:6379/0")

    config = load_config(path)

    found = tomllib.loads(block.text)
    assert len(config.budgets) == len(found.get("budgets", ()))
    assert set(config.prices) == set(found.get("prices", ()))


@pytest.mark.parametrize("block", [b for b in blocks_in("toml") if not _is_configuration(b)], ids=_where)
def test_prices_in_toml_parse(block: Block, tmp_path: Path) -> None:
    from tokenmeter.pricing import parse_prices

    path = tmp_path / "prices.toml"
    path.write_text(block.text, encoding="utf-8")

    assert parse_prices(path)


def test_both_kinds_of_toml_are_found() -> None:
    kinds = [_is_configuration(block) for block in blocks_in("toml")]

    assert True in kinds
    assert False in kinds


def test_every_key_of_a_configuration_is_documented() -> None:
    import inspect

    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `\[+(\w+)\]+`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    keys = {
        table: set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE))))
        for table, text in sections.items()
    }

    from tokenmeter import Budget, Price
    from tokenmeter.outcomes import Kind, Rules

    assert set(sections) == CONFIGURATION
    assert keys["budgets"] == set(inspect.signature(Budget).parameters)
    assert keys["prices"] == set(inspect.signature(Price).parameters)
    assert keys["store"] == {"url", "url_env"}
    assert keys["ledger"] == {"url", "url_env", "keep_days"}
    assert keys["outcomes"] - {"kinds"} == set(inspect.signature(Rules).parameters) - {
        "teams", "user_confidence", "team_confidence",
    }  # fmt: skip
    kinds = set(re.findall(r"^- `(\w+)`", sections["outcomes"], re.MULTILINE))
    assert kinds == set(inspect.signature(Kind).parameters) - {"name"}
    assert keys["meter"] == {"prices_file", "unpriced", "ask_stream_usage"}
    assert keys["telemetry"] == {"metric_labels", "max_label_values", "user_key_env", "propagate_baggage"}


def test_addresses_of_stores_make_sense() -> None:
    from tokenmeter.budgets import redis_url, sqlite_url

    found = [
        address
        for page in PAGES
        for block in blocks(page)
        for address in _ADDRESS.findall(block.text)
        if "{" not in address  # put together by the code of the page
    ]

    assert len(found) > 8
    for address in found:
        plain = re.sub(r"leases=(?:on|off)&?", "", address).rstrip("?&")
        (sqlite_url if plain.startswith("sqlite:") else redis_url).parse_url(plain)


@pytest.mark.parametrize("block", blocks_in("yaml"), ids=lambda block: block.where)
def test_yaml_parses_and_its_pipelines_name_what_there_is(block: Block) -> None:
    yaml = pytest.importorskip("yaml", reason="no YAML parser is installed")

    found = yaml.safe_load(block.text)

    for pipeline in found["service"]["pipelines"].values():
        for part, names in pipeline.items():
            assert set(names) <= set(found[part])


# -- words and links ---------------------------------------------------------------------------------------------


def _texts() -> list[Path]:
    found = [*PAGES, *ROOT.glob("*.md")]
    for folder in ("src", "examples"):
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".toml", ".html"}]
    return sorted(set(found))


def test_nobody_is_told_to_install_another_project() -> None:
    assert _OTHER_PROJECT.search("pip install tokenmeter")
    assert _OTHER_PROJECT.search("pip install -q 'tokenmeter[demo]'")
    assert not _OTHER_PROJECT.search("pip install 'tokenmeter-sdk[demo]'")
    for path in _texts():
        assert not _OTHER_PROJECT.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("page", PAGES, ids=_page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page}: {target}"
        assert found.is_relative_to(ROOT), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{page}: {target}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            if not target.startswith("https://") and (path := target.partition("#")[0]):
                todo.append(page.parent / path)

    assert {page.resolve() for page in PAGES} <= seen


def test_every_room_has_a_row_in_the_design() -> None:
    text = (ROOT / "docs/explanation/design.md").read_text(encoding="utf-8")
    source = ROOT / "src/tokenmeter"
    rooms = {each.name for each in source.glob("*.py")} | {
        f"{each.parent.name}/" for each in source.glob("*/__init__.py")
    }
    rows = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}
    assert rooms - {"__init__.py"} == {name for name in rows if name.endswith((".py", "/"))}
    files = {each.stem for each in (source / "budgets").glob("*.py")} - {"__init__"}
    named = rows - {name for name in rows if name.endswith((".py", "/"))}
    begun = {name.removesuffix("…") for name in named if name.endswith("…")}
    assert {file for file in files if file not in named and not file.startswith(tuple(begun))} == set()
    assert {name for name in named if name.removesuffix("…") not in files and not name.endswith("…")} == set()
