"""Findings as a SARIF 2.1.0 log (OASIS, Static Analysis Results Interchange Format). Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bnkit import __version__
from bnkit.checks.finding import Finding
from bnkit.checks.rule_pages import RulePage, read_page

_VERSION = "2.1.0"
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif_log(findings: Sequence[Finding], remarks: Sequence[str] = (), file: str | None = None) -> dict[str, Any]:
    """A log with one run: the rules that found something, with their pages as help, and a result for each finding.

    A result has the dotted name of the layer as its logical location, and the line that made the layer as its physical location.

    Args:
        findings: In their order.
        remarks: Further remarks about the run.
        file: The physical location of findings that have none, from line 1.

    Examples:
        >>> log = sarif_log([])
        >>> log["version"], log["runs"][0]["tool"]["driver"]["name"], log["runs"][0]["results"]
        ('2.1.0', 'bnkit', [])
    """
    codes = sorted({finding.code for finding in findings})
    driver = {"name": "bnkit", "semanticVersion": __version__, "rules": [_rule(read_page(code)) for code in codes]}
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if remarks:
        invocation["toolExecutionNotifications"] = [{"level": "note", "message": {"text": text}} for text in remarks]
    return {
        "$schema": _SCHEMA,
        "version": _VERSION,
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [invocation],
                "results": [_result(finding, codes.index(finding.code), file) for finding in findings],
            }
        ],
    }


def _rule(page: RulePage) -> dict[str, Any]:
    paragraphs = re.split(r"\n\n+", page.text)
    return {
        "id": page.code,
        "name": "".join(word.capitalize() for word in page.name.split("-")),
        "shortDescription": {"text": page.summary},
        "fullDescription": {"text": " ".join(paragraphs[2].split())},
        "help": {"text": f"{page.text}\nbnkit explain {page.code} prints this page.", "markdown": page.text},
        **_help_uri(page.code),
        "defaultConfiguration": {"level": page.severity},
    }


def _help_uri(code: str) -> dict[str, str]:
    """The address of a rule's page in the repository; none if the package was built without the address of the repository."""
    try:
        urls = metadata("bnkit").get_all("Project-URL") or []
    except PackageNotFoundError:  # imported from its folder
        urls = []
    for name, _, url in (entry.partition(", ") for entry in urls):
        if name == "Repository":
            return {"helpUri": f"{url.rstrip('/')}/blob/v{__version__}/src/bnkit/checks/pages/{code}.md"}
    return {}


def _result(finding: Finding, rule_index: int, file: str | None) -> dict[str, Any]:
    values = finding.to_json()
    where = finding.site or "(the model)"
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": where, "kind": "member"}]}
    shown_at = finding.file or file
    if shown_at is not None:
        location["physicalLocation"] = {
            "artifactLocation": _artifact(shown_at),
            "region": {"startLine": finding.line or 1},
        }
    return {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": finding.severity.value,
        "message": {"text": f"{where}: {finding.message}\nremedy: {finding.remedy}"},
        "locations": [location],
        "properties": {key: values[key] for key in ("measured", "limit") if values[key] is not None},
    }


def _artifact(file: str) -> dict[str, str]:
    """A file of the repository relative to its root, where the command was run; any other file by its URI."""
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    if path.is_absolute():
        return {"uri": path.as_uri()}
    return {"uri": quote(path.as_posix()), "uriBaseId": "%SRCROOT%"}
