"""Which of many cases `make test` runs; the others are marked ``exhaustive``, for `make test-all`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, product
from typing import Any

import pytest

_Row = tuple[int, ...]


def pairwise(
    *factors: Iterable[Any], name: Callable[[Any], str] = str, slow: Callable[..., bool] = lambda *_: False
) -> list[Any]:
    """All rows of the product, for ``parametrize``; those without a new pair of values are marked ``exhaustive``.

    Args:
        factors: The values of each parameter.
        name: What a value is called.
        slow: Which rows are marked ``slow``, from their values.
    """
    values = [tuple(factor) for factor in factors]
    chosen = set(_covering([len(factor) for factor in values]))
    params = []
    for row in product(*(range(len(factor)) for factor in values)):
        given = [factor[place] for factor, place in zip(values, row, strict=True)]
        marks = [] if row in chosen else [pytest.mark.exhaustive]
        params.append(
            pytest.param(
                *given,
                id="-".join(name(value) for value in given),
                marks=[*marks, *([pytest.mark.slow] if slow(*given) else [])],
            )
        )
    return params


def selected(
    rows: Iterable[tuple[Any, ...]], wanted: Callable[..., bool], *, name: Callable[[Any], str] = str
) -> list[Any]:
    """All ``rows``, for ``parametrize``; those that are not ``wanted``, by their values, are marked ``exhaustive``."""
    return [
        pytest.param(
            *row, id="-".join(name(value) for value in row), marks=[] if wanted(*row) else [pytest.mark.exhaustive]
        )
        for row in rows
    ]


def _covering(sizes: Sequence[int]) -> list[_Row]:
    """Rows that hold every pair: those of the two largest factors, with the others filled in by what is missing most."""
    order = sorted(range(len(sizes)), key=lambda factor: -sizes[factor])
    missing = {pair for row in combinations(range(len(sizes)), 2) for pair in _pairs_of(row, sizes)}
    used = {(factor, value): 0 for factor in order for value in range(sizes[factor])}
    rows = []
    for start in product(*(range(sizes[factor]) for factor in order[:2])):
        rows.append(_filled(dict(zip(order, start, strict=False)), order, sizes, missing, used))
    while missing:
        (one, first), (other, second) = min(missing)
        rows.append(_filled({one: first, other: second}, order, sizes, missing, used))
    return rows


def _pairs_of(factors: tuple[int, int], sizes: Sequence[int]) -> Iterable[tuple[tuple[int, int], tuple[int, int]]]:
    one, other = factors
    return (((one, a), (other, b)) for a in range(sizes[one]) for b in range(sizes[other]))


def _filled(
    row: dict[int, int], order: list[int], sizes: Sequence[int], missing: set[Any], used: dict[Any, int]
) -> _Row:
    """``row`` with a value for each factor: of those that complete most missing pairs, the one that was used least."""

    def pairs(factor: int, value: int) -> set[Any]:
        return {tuple(sorted(((factor, value), item))) for item in row.items() if item[0] != factor}

    for factor in order:
        if factor not in row:
            row[factor] = max(
                range(sizes[factor]), key=lambda value: (len(pairs(factor, value) & missing), -used[factor, value])
            )
    for factor, value in row.items():
        missing -= pairs(factor, value)
        used[factor, value] += 1
    return tuple(row[factor] for factor in sorted(row))
