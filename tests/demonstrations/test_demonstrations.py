"""The tables about one layer: every row that says "equal" is, and the course's account holds."""

from __future__ import annotations

import pytest

from bnkit.demonstrations import DEMONSTRATIONS
from bnkit.experiments.experiment import DEMONSTRATION_NAMES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sheets():
    return {name: make() for name, make in DEMONSTRATIONS.items()}


def test_the_names_are_known_without_torch():
    assert tuple(DEMONSTRATIONS) == DEMONSTRATION_NAMES


def _column(sheet, name):
    return [row[sheet.header.index(name)] for row in sheet.rows]


def test_every_mode_gives_pytorchs_numbers(sheets):
    (sheet,) = sheets["train-and-predict"]
    assert _column(sheet, "equal") == ["yes"] * 10
    assert sheet.note.startswith("10 of 10 rows are equal.")


def test_training_and_prediction_differ_and_the_stretch_and_the_shift_are_seen(sheets):
    (sheet,) = sheets["train-and-predict"]
    for layer in ("BatchNorm1d, (64, 3)", "BatchNorm2d, (64, 2, 8, 8)"):
        training, moving, population, stretched = (
            [float(value) for value in row[3].split()] for row in sheet.rows if row[0] == layer
        )
        assert training != moving != population
        assert stretched == pytest.approx([2 * value - 1 for value in training], abs=2e-4)


def test_a_batch_of_one_is_refused_after_a_linear_layer_alone(sheets):
    (sheet,) = sheets["train-and-predict"]
    alone = {row[0]: row[3] for row in sheet.rows if "batch of one" in row[1]}
    assert alone.pop("BatchNorm1d, (1, 3)") == "refused"
    assert "refused" not in alone.values()


def test_from_scratch_built_in_and_ours_agree_in_every_number(sheets):
    numbers, speeds = sheets["scratch-and-concise"]
    assert _column(numbers, "equal") == ["yes"] * 14
    assert set(_column(numbers, "bnkit")) == {"0.0e+00"}
    assert _column(speeds, "arm") == ["reference", "torch", "batch_norm"]
    assert float(speeds.rows[1][-1]) == 1.0
    assert all(float(rate.replace(",", "")) > 0 for rate in _column(speeds, "examples/s"))
