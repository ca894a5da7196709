"""JUnit, CSV and OpenTelemetry."""

from __future__ import annotations

import pytest

from tokenmeter.errors import ConfigError
from tokenmeter.outcomes.csv import read_csv
from tokenmeter.outcomes.junit import parse_junit, read_junit
from tokenmeter.outcomes.otel import read_otel

PASSED = b"""<?xml version="1.0"?>
<testsuites><testsuite name="unit" timestamp="2026-11-02T10:00:00">
<testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>
<testsuite name="slow" timestamp="2026-11-02T11:00:00Z"><testcase name="c"/></testsuite></testsuites>"""


def test_a_report_that_passed_is_one_outcome() -> None:
    [found] = read_junit(PASSED, key="api@3f", run="r", user="ann").outcomes

    assert (found.kind, found.key, found.fold, found.accepted_by) == ("checks", "api@3f", "api@3f", "ci")
    assert found.at_s == 1_793_617_200.0
    assert dict(found.attributes) == {"suite": "unit", "tests": "3"}


@pytest.mark.parametrize(
    "inner",
    [
        b"<testcase name='a'/><testcase name='b'><failure/></testcase>",
        b"<testcase name='a'><error/></testcase>",
        b"<testcase name='a'><failure/><skipped/></testcase>",
        b"<testcase name='a'/><error message='set-up'/>",
        b"<testcase name='a'><skipped/></testcase>",
        b"<testsuite tests='9' failures='1'><testcase name='a'/></testsuite>",  # only what failed is left out
        b"<testsuite tests='9' failures='0' errors='1'><testcase name='a'/></testsuite>",
        b"",
    ],
)
def test_one_that_failed_or_ran_nothing_is_none(inner: bytes) -> None:
    found = read_junit(b"<testsuite>" + inner + b"</testsuite>", key="k", at_s=1.0)

    assert not found.outcomes
    assert len(found.left_out) == 1


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><testsuite>&b;</testsuite>', "document type"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><testsuite/>', "document type"),
        (b"<testsuite>&nope;</testsuite>", "no XML"),
        (b"<testsuite>", "no XML"),
        (b"", "no XML"),
        (b"<html/>", "begins with <html>"),
        (b"<testsuite><testcase name='a'/></testsuite>", "no timestamp"),
    ],
)
def test_what_is_no_report_is_refused(report: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_junit(report, key="k")


def test_a_deep_report_is_read() -> None:
    assert parse_junit(
        b"<testsuites>" + b"<testsuite>" * 3_000 + b"<testcase/>" + b"</testsuite>" * 3_000 + b"</testsuites>"
    )


def test_csv() -> None:
    lines = [
        "kind, key ,at,user,agents,weight,accepted_by,revoked_at,why\n",
        'case,"c,1",2026-11-01T10:00Z,ann,a b,0.2,customer,,\n',
        "case,c2,1793527200,bob,,,customer,1793530000,reopened\n",
        "case,c3,20261101,bob,,,customer,,\n",
    ]

    found = read_csv(lines)

    first, second, third = found.outcomes
    assert third.at_s == 1_793_491_200.0, "a day, not so many seconds"
    assert (first.key, first.at_s, first.agents, first.weight, first.source) == (
        "c,1",
        1_793_527_200.0,
        ("a", "b"),
        0.2,
        "csv",
    )
    assert (second.at_s, second.weight, second.agents) == (first.at_s, 0.25, ())
    assert [(each.key, each.at_s, each.why) for each in found.revocations] == [("c2", 1_793_530_000.0, "reopened")]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no column kind, key, at"),
        (["kind,key,at,team,tem\n"], "column 'tem' is unknown"),
        (["kind,key,at,at\n"], "'at' stands there twice"),
        (["kind,key,at\n", "case,c,1\n", "case,d\n"], "line 3 has another number"),
        (["kind,key,at\n", "case,c,1,2\n"], "line 2 has another number"),
        (["kind,key,at\n", "case,c,soon\n"], "line 2: at is 'soon'"),
        (["kind,key,at\n", "case,c,nan\n"], "line 2: at is 'nan'; write ISO 8601"),
        (["kind,key,at\n", "case,c,2026\n"], "line 2: at is '2026'; write ISO 8601"),
        (["kind,key,at,revoked_at\n", "case,c,1,nan\n"], "line 2: revoked_at is 'nan'; write ISO 8601"),
        (["kind,key,at,revoked_at\n", "case,c,1,-5\n"], "line 2: at_s is -5.0; give a number from 0"),
        (["kind,key,at,weight\n", "case,c,1,much\n"], "line 2: weight is 'much'"),
        (["kind,key,at\n", "case,,1\n"], "line 2: outcome key is ''"),
        (["kind,key,at\n", 'case,"c,1\n'], "no CSV"),
    ],
)
def test_bad_csv_names_the_line(lines: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_csv(lines)


def value(text: str) -> dict[str, str]:
    return {"stringValue": text}


def span(name: str, status: int = 1, **attributes: str) -> dict[str, object]:
    pairs = [{"key": key.replace("__", "."), "value": value(text)} for key, text in attributes.items()]
    return {"name": name, "endTimeUnixNano": "1793527200000000000", "status": {"code": status}, "attributes": pairs}


def document(*spans: dict[str, object]) -> dict[str, object]:
    resource = {"attributes": [{"key": "service.name", "value": value("api")}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def test_spans_of_deployments_and_pipelines() -> None:
    found = read_otel(
        document(
            span("deploy", deployment__id="d1", deployment__status="succeeded", vcs__change__id="42",
                 deployment__environment__name="production", tokenmeter__run__id="r", tokenmeter__team="blue"),
            span("deploy", deployment__id="d2", deployment__status="ok", deployment__environment__name="staging"),
            span("deploy", deployment__id="d3", deployment__status="failed"),
            span("deploy", 2, deployment__id="d4", deployment__status="succeeded"),
            span("build", cicd__pipeline__run__id="7", cicd__pipeline__result="success", vcs__ref__head__revision="3f"),
            span("task", cicd__pipeline__run__id="7", cicd__pipeline__task__run__id="8",
                 cicd__pipeline__task__run__result="success"),
            span("roll back", tokenmeter__revokes="api#d1"),
            span("chat", gen_ai__operation__name="chat"),
        )
    )  # fmt: skip

    assert [(each.kind, each.key, each.fold) for each in found.outcomes] == [
        ("deployment", "api#d1", "api:42"),
        ("checks", "api#7", "api:3f"),
    ]
    assert (found.outcomes[0].run, found.outcomes[0].team, found.outcomes[0].at_s) == ("r", "blue", 1_793_527_200.0)
    assert [(each.kind, each.key) for each in found.revocations] == [("deployment", "api#d1")]
    assert found.left_out == ("deploy went to staging", "deploy didn't succeed", "deploy didn't succeed")


def test_plain_spans() -> None:
    plain = {
        "name": "deploy",
        "end_time": 1_793_527_200_000_000_000,
        "attributes": {"deployment.id": "d", "deployment.status": "succeeded"},
    }

    assert [each.key for each in read_otel([plain]).outcomes] == ["deploy#d"]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        [3],
        [{"name": "x", "attributes": {"deployment.id": "1", "deployment.status": "ok"}}],
        [{"name": "x", "end_time": 10**400, "attributes": {"tokenmeter.revokes": "api#1"}}],
        [{"name": "x", "end_time": 10**18, "attributes": {"tokenmeter.revokes": "Not-A-Kind api#1"}}],
    ],
)
def test_what_has_no_spans_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError):
        read_otel(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "odd",
    [
        [],
        {"resourceSpans": None},
        {"resourceSpans": [{}]},
        {"resourceSpans": [{"resource": 3}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [3]}]}]},
    ],
)
def test_odd_documents_are_empty(odd: object) -> None:
    assert read_otel(odd).outcomes == ()  # type: ignore[arg-type]
