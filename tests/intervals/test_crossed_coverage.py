"""How often the two intervals of a difference hold the true one: by simulation of runs that answer test examples.

``python -m benchmarks.coverage --simulated`` prints the whole table.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from scipy.special import stdtrit

from bnkit.intervals.crossed_effects import example_spread, interval_for_new_examples
from bnkit.intervals.proportions import difference_interval
from tests.intervals.crossed_designs import Design

# What moves the answers: examples that are as hard for both networks, seeds, examples that one network likes, chance alone; and
# examples whose answers all seeds agree on, so that more seeds add nothing.
KINDS = {
    "like trained networks": {},
    "seeds": {"difficulty": 0.6, "preference": 0.05, "luck": 0.05},
    "examples": {"difficulty": 0.4, "preference": 0.4},
    "chance": {"difficulty": 0.0, "preference": 0.0, "luck": 0.0},
    "same answers": {"difficulty": 0.5, "preference": 0.4999, "luck": 0.00005},
}
ACCURACIES = [(0.1, 0.1), (0.1, 0.2), (0.5, 0.51), (0.9, 0.9), (0.98, 0.99), (0.999, 0.999), (0.999, 0.899)]
LOW = 0.93


def coverage(design: Design, rounds: int) -> tuple[float, float, float, float]:
    """How often each interval holds its truth; and the mean widths."""
    generator = np.random.default_rng(zlib.crc32(repr(design).encode()))
    found = np.zeros(4)
    for _ in range(rounds):
        differences, these, new = design.draw(generator)
        values = differences.mean(1).tolist()
        own = difference_interval(values, design.examples)
        spread = example_spread(differences, single_answers=True)
        wider = interval_for_new_examples(values, spread, own, resolution=1 / design.examples, limits=(-1.0, 1.0))
        assert wider.low <= own.low <= own.high <= wider.high
        found += (
            own.low <= these <= own.high,
            wider.low <= new <= wider.high,
            own.high - own.low,
            wider.high - wider.low,
        )
    return tuple(found / rounds)


def _least(rounds: int) -> float:
    """What a coverage of at least ``LOW`` is not below by chance, in hundreds of cells: four standard errors."""
    return LOW - 4 * math.sqrt(LOW * (1 - LOW) / rounds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seeds", "examples"), [(3, 20), (3, 300), (10, 100)])
@pytest.mark.parametrize("accuracies", [(0.9, 0.9), (0.999, 0.97)], ids=str)
def test_intervals_hold_the_truth(kind, seeds, examples, accuracies):
    these, new, _, _ = coverage(Design(seeds, examples, accuracies, **KINDS[kind]), 100)
    assert these >= _least(100)
    assert new >= _least(100)


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_interval_is_not_wider_than_needed(seeds):
    """With many examples, and seeds that matter, it is Student's; where examples matter alone, it comes near 95 %."""
    by_seeds = coverage(Design(seeds, 500, (0.8, 0.85), **KINDS["seeds"]), 200)
    by_examples = coverage(Design(seeds, 500, (0.8, 0.85), **KINDS["same answers"]), 200)
    assert max(by_seeds[:2]) <= 0.99
    assert by_seeds[3] < 1.03 * by_seeds[2]
    assert by_examples[1] <= 0.99


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("examples", [0.0, 0.1, 0.3, 1.0, 3.0, 10.0])
def test_satterthwaite_covers_less_often_than_it_says_and_the_sum_of_squares_does_not(seeds, examples):
    """Normal draws: seeds add a variance of 1, which is estimated; test examples add ``examples``, which many tell."""
    generator, rounds = np.random.default_rng(seeds), 100_000
    variance = generator.chisquare(seeds - 1, rounds) / (seeds - 1)
    mean = generator.normal(size=rounds) * math.sqrt(1 + examples)
    freedom = (variance + examples) ** 2 * (seeds - 1) / variance**2
    satterthwaite = np.mean(np.abs(mean) <= stdtrit(freedom, 0.975) * np.sqrt(variance + examples))
    ours = np.mean(np.abs(mean) <= np.sqrt(stdtrit(seeds - 1, 0.975) ** 2 * variance + 1.96**2 * examples))
    assert 0.947 < ours < 0.98
    assert satterthwaite <= ours + 0.002
    if seeds == 3 and examples == 0.1:
        assert satterthwaite < 0.925


def grid(most_rounds: int) -> Iterator[tuple[str, Design, int]]:
    """Kinds of designs, and how often each is drawn: the large ones less often."""
    for examples, seeds, kind, accuracies in product((20, 100, 1000, 10_000), (3, 5, 10, 20), KINDS, ACCURACIES):
        rounds = most_rounds if seeds * examples <= 20_000 else most_rounds // 4
        yield kind, Design(seeds, examples, accuracies, **KINDS[kind]), rounds


@pytest.mark.exhaustive
@pytest.mark.parametrize("examples", [20, 100, 1000, 10_000])
def test_intervals_hold_the_truth_everywhere(examples):
    missed = []
    for kind, design, rounds in grid(200):
        if design.examples == examples:
            these, new, _, _ = coverage(design, rounds)
            if min(these, new) < _least(rounds):
                missed.append((kind, design, these, new))
    assert missed == []
