"""Outcomes out of OpenTelemetry spans of CI/CD: pipelines that passed, and deployments.

Takes OTLP/JSON, as a collector's file exporter writes it, and plain spans as dicts. The names are those of the semantic
conventions: ``cicd.pipeline.*``, ``deployment.*``, ``vcs.*``; what they lack is read from ``tokenmeter.run.id``,
``tokenmeter.team`` and ``tokenmeter.revokes``, which a pipeline may set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tokenmeter.errors import ConfigError
from tokenmeter.ledger.views import Outcome
from tokenmeter.outcomes.harvest import Harvest, Revocation
from tokenmeter.outcomes.kinds import BUILT_IN, Kinds, new_outcome

PRODUCTION: Final = ("production", "prod", "live")
_GOOD: Final = frozenset({"success", "succeeded", "passed", "ok"})
_RESULTS: Final = ("deployment.status", "cicd.pipeline.task.run.result", "cicd.pipeline.result")

Attributes = dict[str, str]


def read_otel(
    document: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    environments: Iterable[str] = PRODUCTION,
    kinds: Kinds = BUILT_IN,
) -> Harvest:
    """The outcomes of spans that ended well. Deployments count where their environment is one of ``environments``.

    A deployment that names no environment counts. A span with ``tokenmeter.revokes`` takes back the deployment of that
    key, whatever else it is.

    Raises:
        ConfigError: a document that has no spans, a span without an end, or one that takes back what has no name.
    """
    wanted = {name.lower() for name in environments}
    outcomes: list[Outcome] = []
    revocations: list[Revocation] = []
    left_out: list[str] = []
    for span, found in _spans(document):
        name = str(span.get("name", "span"))[:80]
        if "tokenmeter.revokes" in found:
            kind, sign, key = found["tokenmeter.revokes"].partition(" ")
            kind, key = (kind, key) if sign else ("deployment", kind)
            revocations.append(Revocation(kind, key, _end_s(span), f"span {name!r}"))
            continue
        deploys = any(each.startswith("deployment.") and each != "deployment.environment.name" for each in found)
        deploys = deploys or found.get("cicd.pipeline.task.type") == "deploy"
        if not deploys and "cicd.pipeline.run.id" not in found:
            continue
        if not deploys and "cicd.pipeline.task.run.id" in found:
            continue  # a task is a part of its run, which has a span of its own
        if not _is_good(span, found):
            left_out.append(f"{name} didn't succeed")
            continue
        environment = found.get("deployment.environment.name", found.get("deployment.environment", "")).lower()
        if deploys and environment and environment not in wanted:
            left_out.append(f"{name} went to {environment}")
            continue
        outcomes.append(_outcome("deployment" if deploys else "checks", name, span, found, kinds))
    return Harvest(tuple(outcomes), tuple(revocations), tuple(left_out))


def _outcome(kind: str, name: str, span: Mapping[str, Any], found: Attributes, kinds: Kinds) -> Outcome:
    target = found.get("service.name") or found.get("vcs.repository.name") or found.get("cicd.pipeline.name") or name
    ids = ("deployment.id", "cicd.pipeline.task.run.id", "cicd.pipeline.run.id")
    number = next((found[each] for each in ids if each in found), None) or str(span.get("spanId") or _end_s(span))
    change = found.get("vcs.change.id") or found.get("vcs.ref.head.revision")
    repository = found.get("vcs.repository.name", target)
    agent = found.get("gen_ai.agent.name")
    return new_outcome(
        kind, f"{target}#{number}"[:256], _end_s(span),
        team=found.get("tokenmeter.team"),
        user=found.get("user.id"),
        run=found.get("tokenmeter.run.id"),
        agents=(agent,) if agent else (),
        fold=f"{repository}:{change}"[:256] if change else None,
        accepted_by=found.get("tokenmeter.accepted_by", found.get("cicd.pipeline.name", "ci")),
        source="otel",
        attributes=(("target", target),),
        kinds=kinds,
    )  # fmt: skip


def _is_good(span: Mapping[str, Any], found: Attributes) -> bool:
    status = span.get("status")
    code = status.get("code") if isinstance(status, Mapping) else None
    if code in (2, "2", "STATUS_CODE_ERROR", "ERROR"):
        return False
    said = [found[name].lower() for name in _RESULTS if name in found]
    return bool(said) and all(each in _GOOD for each in said)


def _spans(
    document: Mapping[str, Any] | Iterable[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], Attributes]]:
    """Spans and their attributes, with those of the resource beneath."""
    documents: list[Any] = [document] if isinstance(document, Mapping) else list(document)
    for each in documents:
        if not isinstance(each, Mapping):
            raise ConfigError(f"{str(each)[:40]!r} is no span; give OTLP/JSON, or spans as objects")
        if "resourceSpans" not in each:
            if "name" not in each:
                raise ConfigError("the document has neither resourceSpans nor a span's name; give OTLP/JSON")
            yield each, _plain(each.get("attributes"))
            continue
        for resource in _list(each["resourceSpans"]):
            whose = resource.get("resource")
            above = _plain(whose.get("attributes")) if isinstance(whose, dict) else {}
            for scope in _list(resource.get("scopeSpans")):
                for span in _list(scope.get("spans")):
                    yield span, {**above, **_plain(span.get("attributes"))}


def _plain(attributes: Any) -> Attributes:
    """Attributes of OTLP (a list of keys and typed values) or of a dict, as text; empty ones are left out."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(attributes, Mapping):
        pairs = list(attributes.items())
    elif isinstance(attributes, list):
        for each in attributes:
            if isinstance(each, Mapping) and isinstance(each.get("value"), Mapping):
                pairs.append((each.get("key"), next(iter(each["value"].values()), None)))
    texts = {str(name): str(value) for name, value in pairs if isinstance(value, str | int | float)}
    return {name: text[:256] for name, text in texts.items() if text.strip()}


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _end_s(span: Mapping[str, Any]) -> float:
    for name in ("endTimeUnixNano", "end_time_unix_nano", "end_time", "startTimeUnixNano"):
        value = span.get(name)
        try:
            if value is not None and int(value) > 0:
                return int(value) / 1e9
        except (TypeError, ValueError, OverflowError):
            continue
    raise ConfigError(f"span {str(span.get('name'))[:40]!r} has no endTimeUnixNano; give spans that have ended")
