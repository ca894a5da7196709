"""The public face: what is documented is what there is."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import tokenmeter
from tokenmeter.telemetry import names
from tokenmeter.wire import routes
from tokenmeter.wire.hosts import HOSTS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "reference"
API = (DOCS / "api.md").read_text(encoding="utf-8")
_SIGNATURE = re.compile(r"```text\n(\w+)\((.*?)\)\n```", re.DOTALL)


def _section(title: str) -> str:
    found = re.search(rf"^##+ `{re.escape(title)}`\n(.*?)(?=^##|\Z)", API, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{title} has no section in api.md"
    return found[1]


def _documented(title: str) -> list[str]:
    """The parameters in the signature of a section, with their defaults."""
    found = _SIGNATURE.search(_section(title))
    assert found is not None, f"{title} has no signature in api.md"
    return [part.strip() for part in re.split(r",(?![^(]*\))", found[2]) if part.strip()]


def _actual(function: object) -> list[str]:
    """The parameters of a function in the way of the documentation; a private default is written ``…``."""
    assert callable(function)
    parts: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        text = f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name
        if parameter.default is not parameter.empty:
            shown = repr(parameter.default).replace("'", '"').replace('Decimal("0")', "Decimal(0)")
            shown = "{}" if shown in ("<factory>", "mappingproxy({})") else shown
            text += f"={'…' if shown.startswith('<') else shown}"
        parts.append(text)
    return parts


def test_all_is_sorted_and_there() -> None:
    assert sorted(tokenmeter.__all__) == list(tokenmeter.__all__)
    for name in tokenmeter.__all__:
        assert hasattr(tokenmeter, name)


def test_each_public_name_is_documented_and_nothing_else() -> None:
    documented = re.findall(r"^## `(\w+)`$", API, re.MULTILINE)

    assert sorted(documented) == sorted(tokenmeter.__all__)


def test_each_public_method_of_the_meter_is_documented_and_nothing_else() -> None:
    methods = {name for name, _ in inspect.getmembers(tokenmeter.Meter, inspect.isroutine) if not name.startswith("_")}

    assert set(re.findall(r"^### `Meter\.(\w+)`$", API, re.MULTILINE)) == methods


def _modules() -> dict[str, list[str]]:
    """The names that are documented of each module."""
    parts = API[API.index("\n## Modules\n") :].split("\n### ")[1:]
    tables = {re.match(r"`(.*)`\n", part)[1]: re.findall(r"^\| (`.*?) \|", part, re.MULTILINE) for part in parts}  # type: ignore[index]
    return {module: re.findall(r"`(\w+)`", " ".join(rows)) for module, rows in tables.items()}


@pytest.mark.parametrize("module", _modules())
def test_what_is_documented_of_a_module_is_what_it_has(module: str) -> None:
    found = importlib.import_module(module)
    documented = _modules()[module]

    assert documented
    for name in documented:
        assert hasattr(found, name), name
    if hasattr(found, "__all__"):
        assert sorted(documented) == sorted(found.__all__)


def _imports_of(page: Path) -> set[tuple[str, str]]:
    found = set()
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenmeter"):
                found |= {(node.module or "", alias.name) for alias in node.names}
    return found


def test_the_docs_import_nothing_private() -> None:
    root = DOCS.parents[1]
    public = {(module, name) for module, names in _modules().items() for name in names}
    public |= {("tokenmeter", name) for name in tokenmeter.__all__}
    imported = {each for page in [root / "README.md", *root.glob("docs/**/*.md")] for each in _imports_of(page)}

    assert len(imported) > 10
    assert imported <= public


_CLASSES = [
    "Budget", "BudgetExceeded", "CallRecord", "DepthExceeded", "LoopDetected", "LoopPolicy", "Meter", "Overshoot",
    "Price", "Refused", "Remaining", "Spend", "UnpricedModel", "Usage",
]  # fmt: skip


@pytest.mark.parametrize("name", _CLASSES)
def test_a_signature_is_documented_as_it_is(name: str) -> None:
    assert _documented(name) == _actual(getattr(tokenmeter, name))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^### `Meter\.(\w+)`$", API, re.MULTILINE))))
def test_a_method_is_documented_as_it_is(name: str) -> None:
    assert _documented(f"Meter.{name}") == _actual(getattr(tokenmeter.Meter, name))


def test_the_error_tree_is_documented_as_it_is() -> None:
    kinds = {
        name: kind
        for name in tokenmeter.__all__
        if inspect.isclass(kind := getattr(tokenmeter, name)) and issubclass(kind, tokenmeter.TokenmeterError)
    }
    tree = re.search(r"```text\n(TokenmeterError\n.*?)```", API, re.DOTALL)
    assert tree is not None

    assert set(re.findall(r"[A-Z]\w+", tree[1])) - {"ValueError"} == set(kinds)
    for kind in kinds.values():
        assert kind.__doc__


def test_each_public_name_has_a_docstring() -> None:
    for name in tokenmeter.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(tokenmeter, name)), name
    for name, method in inspect.getmembers(tokenmeter.Meter, inspect.isroutine):
        if not name.startswith("_"):
            assert inspect.getdoc(method), name


def test_each_attribute_and_metric_is_documented_and_nothing_else() -> None:
    page = (DOCS / "attributes-and-metrics.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([a-z_.]+(?:NAME)?)` \|", page, re.MULTILINE)
    constants = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}

    assert len(documented) == len(set(documented))
    assert {name.removesuffix("NAME") for name in documented} == constants


def test_each_protocol_and_host_is_documented() -> None:
    page = (DOCS / "wire-protocols.md").read_text(encoding="utf-8")
    source = Path(routes.__file__).read_text(encoding="utf-8")
    protocols = set(
        re.findall(
            r'"((?:openai|alibaba|anthropic|gemini|bedrock|cohere|ollama|mistral|watsonx|cloudflare|llamacpp|tgi)\.[a-z_]+)"',
            source,
        )
    )
    assert len(protocols) > 15

    assert set(re.findall(r"^\| `(\w+\.\w+)` \| `?[…/A-Z]", page, re.MULTILINE)) == protocols
    for host, (provider, prices) in HOSTS.items():
        assert f"| `{host}` | `{provider}` | {f'`{prices}`' if prices else 'none'} |" in page
