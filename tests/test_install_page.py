"""docs/install.md says what pyproject.toml says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "install.md").read_text()


def test_every_extra_is_in_the_table():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == sorted(
        PROJECT["optional-dependencies"].keys() - {"dev"}
    )


def test_the_oldest_versions_are_those_that_pip_asks_for():
    (torch,) = (text.removeprefix("torch>=") for text in PROJECT["dependencies"] if text.startswith("torch"))
    python = PROJECT["requires-python"].removeprefix(">=")
    assert f"bnkit needs Python {python} or newer and PyTorch {torch} or newer." in PAGE


def test_the_development_environment_has_every_extra():
    (extras,) = (text for text in PROJECT["optional-dependencies"]["dev"] if text.startswith("bnkit["))
    named = extras.removeprefix("bnkit[").removesuffix("]").split(",")
    assert sorted(named) == sorted(PROJECT["optional-dependencies"].keys() - {"dev"})


def test_the_versions_of_python_are_those_that_were_tried():
    named = {
        text.rpartition(" ")[2]
        for text in PROJECT["classifiers"]
        if text.startswith("Programming Language :: Python :: 3.")
    }
    assert named == set(re.findall(r"^\| (3\.\d+) \|", PAGE, re.MULTILINE))
