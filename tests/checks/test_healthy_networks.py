"""No error on healthy networks, and the warnings and notes that the page about them lists."""

from __future__ import annotations

import re

import pytest

from bnkit.checks.rule_registry import page
from tests.checks.healthy import HEALTHY, found_on, row


@pytest.mark.slow
@pytest.mark.parametrize("healthy", [pytest.param(healthy, id=healthy.name) for healthy in HEALTHY])
def test_what_is_found_is_listed_and_no_error(healthy):
    found = found_on(healthy)
    assert not found.at_least("error"), found
    assert row(healthy.name, found) in page("healthy").splitlines(), row(healthy.name, found)


def test_the_page_lists_these_networks_and_says_why_each_finding_is_true():
    text = page("healthy")
    listed = re.findall(r"^\| ([^|]*) \| ", text, re.MULTILINE)
    assert listed == ["network", "---", *(healthy.name for healthy in HEALTHY)]
    assert set(re.findall(r"\[(BN\d+)\]", text)) == set(re.findall(r"^- \*\*(BN\d+)\*\*", text, re.MULTILINE))
