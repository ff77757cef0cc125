"""No error on healthy networks, and the warnings and notes that the page about them lists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bnkit.checks
from bnkit.experiments.networks.registry import ARCHITECTURES
from tests.checks.healthy import HEALTHY, found_on, row

PAGE = (Path(bnkit.checks.__file__).parent / "pages" / "healthy.md").read_text(encoding="utf-8")
# Ours, and of others one for each rule that is right about a network of theirs.
KINDS = {
    *ARCHITECTURES, "transformers.MobileNetV2", "transformers.MobileViT", "pytorchcv.preresnet20_cifar10",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "healthy",
    [
        pytest.param(healthy, id=healthy.name, marks=[] if healthy.name in KINDS else [pytest.mark.exhaustive])
        for healthy in HEALTHY
    ],
)
def test_what_is_found_is_listed_and_no_error(healthy):
    findings = found_on(healthy)
    assert not findings.at_least("error"), findings
    assert row(healthy.name, findings) in PAGE.splitlines(), row(healthy.name, findings)


def test_the_page_lists_these_networks_and_says_why_each_finding_is_true():
    listed = re.findall(r"^\| ([^|]*) \| ", PAGE, re.MULTILINE)
    assert listed == ["network", "---", *(healthy.name for healthy in HEALTHY)]
    assert set(re.findall(r"\[(BN\d+)\]", PAGE)) == set(re.findall(r"^- \*\*(BN\d+)\*\*", PAGE, re.MULTILINE))
