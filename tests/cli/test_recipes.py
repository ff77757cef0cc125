"""`bnkit recipes` as its user meets it."""

from __future__ import annotations

import json

from bnkit.experiments.experiment import DEMONSTRATION_NAMES, recipes
from tests.cli.cli_runner import invoke


def test_every_recipe_has_a_line_that_says_what_it_asks(capsys):
    listed = invoke(capsys, "recipes")
    assert (listed.status, listed.err) == (0, "")
    assert "quickstart" in listed.out and "What does batch normalization buy" in listed.out
    assert invoke(capsys, "compare", "--list").out == listed.out
    content = json.loads(invoke(capsys, "recipes", "--json").out)
    assert [entry["name"] for entry in content] == sorted((*recipes(), *DEMONSTRATION_NAMES))
    assert all(entry["about"] for entry in content)
