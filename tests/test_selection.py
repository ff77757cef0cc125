"""What is left out of `make test` by ``tests.cases.selection``: no pair of values, and nothing of `make test-all`."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.cases.selection import pairwise, selected


def _kept(params):
    return [param.values for param in params if pytest.mark.exhaustive not in param.marks]


@pytest.mark.parametrize(
    "factors",
    ["abcdefg ABC 12 xy", "ab ABCDEFGHIJ 123", "abc", "abc ABC 123 xyz pqr", "a b", "abcd ABCD 1234"],
)
def test_every_pair_of_values_is_kept_in_few_rows_of_all(factors):
    factors = factors.split()
    params = pairwise(*factors)
    assert {param.values for param in params} == set(product(*factors))
    assert len({param.id for param in params}) == len(params)
    kept = _kept(params)
    for one, other in combinations(range(len(factors)), 2):
        assert {(row[one], row[other]) for row in kept} == set(product(factors[one], factors[other]))
    largest = sorted(map(len, factors))[-2:]
    assert len(kept) <= 1.5 * largest[0] * largest[-1]


def test_what_is_not_wanted_is_marked_and_not_gone():
    rows = list(product("ab", (True, False)))
    params = selected(rows, lambda name, flag: flag or name == "a")
    assert [param.values for param in params] == rows
    assert _kept(params) == [("a", True), ("a", False), ("b", True)]
    assert [param.id for param in params] == ["a-True", "a-False", "b-True", "b-False"]
