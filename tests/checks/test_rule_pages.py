"""Every rule has its page; what the page calls wrong is found, and what it calls right is not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

import bnkit
from bnkit.checks.config import load_config
from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule_pages import find_page, read_page, rule_pages
from bnkit.checks.rule_registry import rules, selected_rules

ROOT = Path(__file__).parents[2]
HEADINGS = [
    "Why it matters",
    "Source",
    "Wrong",
    "Right",
    "What is measured",
    "The limit",
    "When to ignore it",
    "The remedy",
]
RULES = [pytest.param(rule, id=rule.code) for rule in rules()]


def _section(rule, heading):
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", read_page(rule.code).text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_page_has_all_sections_and_says_what_the_rule_says(rule):
    text = read_page(rule.code).text
    assert text.startswith(f"# {rule.code} {rule.name}\n\nSeverity: {rule.severity.value}")
    head = read_page(rule.code)
    assert (head.code, head.name, head.severity) == (rule.code, rule.name, rule.severity.value)
    assert head.former_names == rule.former_names
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert ("Fix: " in text.split("##")[0]) == rule.is_fixable
    assert (ROOT / "docs" / "rules" / f"{rule.code}.md").read_text() == text


@pytest.mark.parametrize(("heading", "is_found"), [("Wrong", True), ("Right", False)])
@pytest.mark.parametrize("rule", RULES)
def test_the_examples_of_a_page_are_true(rule, heading, is_found):
    code = re.search(r"```python\n(.*?)```", _section(rule, heading), re.DOTALL)[1]
    namespace = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        exec(compile(code, f"{rule.code} {heading}", "exec"), namespace)  # noqa: S102
    assert (rule.code in namespace["findings"].codes) == is_found, namespace["findings"]


def test_no_page_is_without_its_rule():
    pages = {path.stem for path in (ROOT / "docs" / "rules").glob("BN*.md")}
    assert pages == {rule.code for rule in rules()} == {page.code for page in rule_pages()}


def test_codes_and_names_are_each_used_once():
    assert len({rule.code for rule in rules()}) == len({rule.name for rule in rules()}) == len(rules())


FORMER_NAMES = {
    "two-in-a-row": "BN103", "on-the-output": "BN104", "never-runs": "BN107", "moving-average": "BN201", "poisoned": "BN203",
    "gamma": "BN205", "thawed-by-train": "BN302", "averaged-without-statistics": "BN306",
}  # fmt: skip


@pytest.mark.parametrize(("former", "code"), FORMER_NAMES.items())
def test_a_rule_answers_to_its_former_name(former, code, tmp_path):
    name = find_page(former).name
    assert find_page(former.upper()).code == find_page(name).code == code
    for called in (former, name):
        assert [rule.code for rule in selected_rules(called, None)] == [code]
        assert code not in {rule.code for rule in selected_rules(None, f"{called},BN101")}
        config = tmp_path / f"{called}.toml"
        config.write_text(f'[tool.bnkit]\nselect = ["{called}"]\nper-layer-ignores = {{ "1" = ["{called}"] }}\n')
        finding = Finding(code, Severity.NOTE, "1", None, None, "", "")
        assert load_config(config).ignores(finding)


def test_a_user_may_still_write_former_names():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4))
    image = torch.randn(2, 3, 2, 2)
    assert bnkit.check(model, example_inputs=image, select="two-in-a-row").codes == ("BN103",)
    assert bnkit.check(model, example_inputs=image, select="consecutive").codes == ("BN103",)
    ignored = bnkit.check(model, example_inputs=image, ignore=["on-the-output", "two-in-a-row"])
    assert not {"BN103", "BN104"} & set(ignored.codes)


def test_no_former_name_is_a_name_of_another_rule():
    names = [name for rule in rules() for name in (rule.name, *rule.former_names)]
    assert len(names) == len(set(names)) == len(rules()) + len(FORMER_NAMES)
