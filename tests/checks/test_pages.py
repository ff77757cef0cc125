"""Every rule has its page; what the page calls wrong is found, and what it calls right is not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

from bnkit.checks.pages import page
from bnkit.checks.rule_registry import rules

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
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page(rule.code), re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("rule", RULES)
def test_a_page_has_all_sections_and_says_what_the_rule_says(rule):
    text = page(rule.code)
    assert text.startswith(f"# {rule.code} {rule.name}\n\nSeverity: {rule.severity.value}")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert ("Can be mended" in text.split("##")[0]) == rule.is_fixable
    assert (ROOT / "docs" / "rules" / f"{rule.code}.md").read_text() == text


@pytest.mark.parametrize(("heading", "is_found"), [("Wrong", True), ("Right", False)])
@pytest.mark.parametrize("rule", RULES)
def test_its_examples(rule, heading, is_found):
    code = re.search(r"```python\n(.*?)```", _section(rule, heading), re.DOTALL)[1]
    namespace = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        exec(compile(code, f"{rule.code} {heading}", "exec"), namespace)  # noqa: S102
    assert (rule.code in namespace["findings"].codes) == is_found, namespace["findings"]


def test_no_page_is_without_its_rule():
    pages = {path.stem for path in (ROOT / "docs" / "rules").glob("BN*.md")}
    assert pages == {rule.code for rule in rules()}


def test_codes_and_names_are_each_used_once():
    assert len({rule.code for rule in rules()}) == len({rule.name for rule in rules()}) == len(rules())
