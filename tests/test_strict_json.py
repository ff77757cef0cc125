from __future__ import annotations

import json
import math

import pytest

from bnkit.strict_json import dumps, strict


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (0.5, 0.5),
        (3, 3),
        (True, True),
        ("nan", "nan"),
        ({"a": [1.0, math.inf], "b": {"c": (math.nan,)}}, {"a": [1.0, None], "b": {"c": [None]}}),
    ],
)
def test_what_json_does_not_know_is_null(value, expected):
    assert strict(value) == expected
    assert json.loads(dumps(value), parse_constant=pytest.fail) == expected
