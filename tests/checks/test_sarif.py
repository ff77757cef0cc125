"""Findings as a SARIF log: valid by the schema, and what code scanning shows of it."""

from __future__ import annotations

import json
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import jsonschema
import pytest

from bnkit import __version__
from bnkit.checks import sarif
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.findings_output import Findings
from bnkit.checks.rule_pages import rule_pages

SCHEMA = jsonschema.Draft4Validator(json.loads(Path(__file__).with_name("sarif-2.1.0.json").read_text()))


def _log(*findings, file=None, **arguments):
    log = Findings(findings, layers=2, **arguments).to_sarif(file)
    SCHEMA.validate(json.loads(json.dumps(log, allow_nan=False)))
    (run,) = log["runs"]
    return run


def _finding(code="BN101", site="a.0", severity=Severity.WARNING, measured=3, **place):
    return Finding(code, severity, site, measured, None, "it is off", "mend it", **place)


def test_the_schema_refuses_what_is_no_log():
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"version": "2.1.0", "runs": [{"results": []}]})


def test_every_rule_is_described_by_its_page():
    run = _log(*(_finding(page.code) for page in rule_pages()))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [page.code for page in rule_pages()]
    assert [rule["id"] for rule in rules] == [rules[result["ruleIndex"]]["id"] for result in run["results"]]
    first = rules[0]
    assert first["name"] == "UselessBias"
    assert first["shortDescription"]["text"] == "a bias that batch norm cancels"
    assert first["fullDescription"]["text"] == "A layer with a bias stands right before a batch norm."
    assert first["help"]["markdown"].startswith("# BN101 useless-bias")
    assert first["defaultConfiguration"] == {"level": "warning"}
    assert all(not rule["fullDescription"]["text"].startswith("#") for rule in rules)


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        (["Documentation, https://a.org/docs", "Repository, https://a.org/b/"], f"https://a.org/b/blob/v{__version__}/src/bnkit/checks/pages/BN101.md"),
        (["Documentation, https://a.org/docs"], None),
        (None, None),
    ],
)  # fmt: skip
def test_a_rule_links_to_its_page_in_the_repository(monkeypatch, urls, expected):
    """Its address is that of the package, and the file is there."""
    package = Message()
    for url in urls or ():
        package["Project-URL"] = url
    monkeypatch.setattr(sarif, "metadata", lambda name: package)
    (rule,) = _log(_finding())["tool"]["driver"]["rules"]
    assert rule.get("helpUri") == expected
    assert (Path(__file__).parents[2] / "src/bnkit/checks/pages/BN101.md").is_file()


def test_without_a_package_there_is_no_link(monkeypatch):
    def metadata(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(sarif, "metadata", metadata)
    (rule,) = _log(_finding())["tool"]["driver"]["rules"]
    assert "helpUri" not in rule


@pytest.mark.parametrize(
    ("place", "file", "expected"),
    [
        ({"file": "nets/a b.py", "line": 7}, "other.py", ({"uri": "nets/a%20b.py", "uriBaseId": "%SRCROOT%"}, 7)),
        ({"file": "/away/nets.py", "line": 2}, None, ({"uri": "file:///away/nets.py"}, 2)),
        ({}, "other.py", ({"uri": "other.py", "uriBaseId": "%SRCROOT%"}, 1)),
        ({}, None, None),
    ],
)
def test_the_places_of_a_result(place, file, expected):
    (result,) = _log(_finding(**place), file=file)["results"]
    (location,) = result["locations"]
    assert location["logicalLocations"] == [{"fullyQualifiedName": "a.0", "kind": "member"}]
    physical = location.get("physicalLocation")
    found = None if physical is None else (physical["artifactLocation"], physical["region"]["startLine"])
    assert found == expected


def test_a_file_below_the_working_directory_is_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (result,) = _log(_finding(), file=str(tmp_path / "nets.py"))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "nets.py"


def test_levels_messages_and_figures():
    run = _log(
        _finding("BN201", severity=Severity.ERROR, measured={"accuracy": float("nan"), "examples": 3}),
        _finding("BN102", "", Severity.NOTE, None),
        not_checked={"batches of data": ["BN202"]},
        notes=["no layer matches 'head'"],
    )
    assert [result["level"] for result in run["results"]] == ["error", "note"]
    assert [result["message"]["text"] for result in run["results"]] == [
        "a.0: it is off\nremedy: mend it",
        "(the model): it is off\nremedy: mend it",
    ]
    assert [result["properties"] for result in run["results"]] == [{"measured": {"accuracy": None, "examples": 3}}, {}]
    note, remark = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "no layer matches 'head'"
    assert remark["message"]["text"] == "not checked without batches of data: BN202"
