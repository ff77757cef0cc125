"""How findings are told: in a terminal, in a notebook, in a build, and as plain values."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

import bnkit
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.findings_output import Findings
from bnkit.errors import ModelError, SettingsError


def _finding(
    code="BN101", severity=Severity.WARNING, site="a.0", message="it is off", remedy="mend it", measured=1.0, **place
):
    return Finding(code, severity, site, measured, 0, message, remedy, **place)


def _findings(*entries, **arguments):
    return Findings(entries, layers=4, **arguments)


def test_findings_as_text():
    long = "remedy " * 20
    findings = _findings(
        _finding("BN201", Severity.ERROR, "features.1", "bad\nfurthest off: b"),
        _finding(site="a"),
        *(_finding("BN111", site=name, remedy=long.strip()) for name in "bcdefgh"),
        _finding("BN102", Severity.NOTE, ""),
    )
    assert str(findings).splitlines() == [
        "error    BN201 features.1   bad",
        "                            furthest off: b",
        "                            remedy: mend it",
        "warning  BN101 a            it is off; mend it",
        "warning  BN111 b            it is off",
        f"                            remedy: {long.strip()}",
        "                            also: c, d, e, f and 2 more",
        "note     BN102 (the model)  it is off; mend it",
        "1 error, 8 warnings, 1 note in 4 layers",
    ]
    assert repr(findings) == str(findings)


def test_a_terminal_gets_colours_and_nothing_is_markup():
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="truecolor")
    console.print(_findings(_finding(message="[bold]not bold[/bold]", site=":smile:")))
    text = console.file.getvalue()
    assert "[bold]not bold[/bold]" in text and ":smile:" in text and "\x1b[33mwarning" in text


def test_no_findings_as_text():
    assert str(_findings()) == "nothing found in 4 layers"
    assert _findings()._repr_html_() == "<p>nothing found in 4 layers</p>"
    assert _findings().to_json() == [] and _findings().to_github() == ""


def test_a_notebook_gets_escaped_html():
    findings = _findings(
        _finding(site="<b>", message="a & b\nc"), not_checked={"data": ["BN201"]}, fixable=frozenset({"BN101"})
    )
    page = findings._repr_html_()
    assert "<td style='text-align:left;vertical-align:top'>&lt;b&gt;</td>" in page
    assert "a &amp; b<br>c" in page
    assert page.endswith("<p>1 warning in 4 layers<br>not checked without data: BN201</p>")


def test_annotations_are_escaped():
    findings = _findings(_finding(severity=Severity.NOTE, message="50%\r\n::error::x"))
    assert findings.to_github("a,b:c.py") == (
        "::notice file=a%2Cb%3Ac.py,title=BN101::a.0: 50%25%0D%0A::error::x%0Aremedy: mend it\n"
    )


def test_the_lines_that_made_the_layers():
    findings = _findings(
        *(_finding(site=site, file="nets.py", line=line) for site, line in (("a", 3), ("b", 3), ("c", 5))),
        _finding("BN102"),
    )
    assert str(findings).splitlines()[:4] == [
        "warning  BN101 a    it is off; mend it",
        "                    also: b, c",
        "                    made at nets.py:3, nets.py:5",
        "warning  BN102 a.0  it is off; mend it",
    ]
    first, *_, last = findings.to_github("other.py").splitlines()
    assert first.startswith("::warning file=nets.py,line=3,title=BN101::a: ")
    assert last.startswith("::warning file=other.py,title=BN102::a.0: ")
    plain = findings.to_json()
    assert (plain[0]["file"], plain[0]["line"]) == ("nets.py", 3) and "file" not in plain[3]


def test_findings_as_plain_values():
    findings = _findings(_finding(measured=math.inf), _finding(measured={"accuracy": math.nan, "examples": 3}))
    assert json.loads(json.dumps(findings.to_json(), allow_nan=False)) == [
        {"code": "BN101", "severity": "warning", "site": "a.0", "measured": measured, "limit": 0, "message": "it is off", "remedy": "mend it"}
        for measured in (None, {"accuracy": None, "examples": 3})
    ]  # fmt: skip


def test_findings_are_a_sequence():
    entries = [_finding("BN201", Severity.ERROR), _finding(), _finding("BN102", Severity.NOTE)]
    findings = _findings(*entries, fixable=frozenset({"BN201"}))
    assert list(findings) == entries and findings[1] == entries[1] and len(findings[:2]) == 2
    assert findings.codes == ("BN101", "BN102", "BN201")
    assert [len(findings.at_least(severity)) for severity in Severity] == [1, 2, 3]
    assert list(findings.of("BN201")) == entries[:1]
    assert (findings.fixable_count, findings.remarks) == (1, ())
    assert findings == _findings(*entries) and findings != _findings()


def _model():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_rules_that_did_not_run_are_listed_with_what_they_need():
    findings = bnkit.check(_model())
    assert {need: "BN101" in codes for need, codes in findings.not_checked.items()}["an example input"]
    assert any("BN201" in codes for need, codes in findings.not_checked.items() if need == "batches of data")
    assert bnkit.check(_model(), select="BN108").not_checked == {}


def test_assert_healthy():
    example = torch.randn(4, 4)
    with pytest.raises(AssertionError, match=r"Sequential is not healthy\nwarning  BN101 0"):
        bnkit.assert_healthy(_model(), example_inputs=example)
    bnkit.assert_healthy(_model(), example_inputs=example, fail_on="error")
    bnkit.assert_healthy(_model(), example_inputs=example, ignore="BN101")
    bnkit.assert_healthy(_model(), example_inputs=example, per_layer_ignores={"0": "BN101"})
    with pytest.raises(SettingsError, match="fail_on='never'; expected one of error, warning, note"):
        bnkit.assert_healthy(_model(), fail_on="never")


def test_settings_of_a_file(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text('[tool.bnkit]\nignore = ["useless-bias"]\n')
    example = torch.randn(4, 4)
    assert "BN101" not in bnkit.check(_model(), example_inputs=example, config=path).codes
    assert "BN101" in bnkit.check(_model(), example_inputs=example, config=path, ignore="BN102").codes
    path.write_text("[tool.other]\n")
    assert "BN101" in bnkit.check(_model(), example_inputs=example, config=path).codes


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, SettingsError, "model is a int"),
        (nn.Linear(2, 2), ModelError, "holds no batch norm"),
        (nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()), ModelError, "has no shape yet"),
    ],
)
def test_what_is_no_model_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        bnkit.check(model)


def test_batches_are_an_example_too():
    for batches in (
        [torch.randn(4, 4)],
        iter([torch.randn(4, 4)]),
        torch.randn(4, 4),
        [(torch.randn(4, 4), torch.zeros(4))],
    ):
        assert "BN101" in bnkit.check(_model(), batches).codes
    findings = bnkit.check(_model(), [{"x": torch.randn(4, 4)}], forward=lambda model, batch: model(batch["x"]))
    assert "BN101" in findings.codes
