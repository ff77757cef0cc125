"""Whether a change made a model worse, counted in pairs."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest, ttest_rel
from torch import nn
from torch.nn import functional

from bnkit.errors import ModelError
from bnkit.model.verify.accept_changed_model import Outcome
from bnkit.model.verify.compare_predictions import effect_of
from bnkit.model.verify.prediction_changes import PredictionChanges, _chance


def _logits(classes, sure=4.0, wrong=()):
    """Scores that answer ``classes``, but for the rows in ``wrong``."""
    answers = classes.clone()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % 3
    return functional.one_hot(answers, 3) * sure


CLASSES = torch.arange(200) % 3


def _effect(before, after, targets=CLASSES):
    effect = PredictionChanges()
    for rows in torch.arange(len(targets)).split(60):
        effect.add([before[rows]], [after[rows]], targets[rows])
    return effect


@pytest.mark.parametrize(("gained", "lost"), [(10, 0), (7, 1), (12, 11), (0, 0), (3, 9)])
def test_accuracies_are_compared_by_the_exact_test_of_pairs(gained, lost):
    pairs = gained + lost
    expected = binomtest(gained, pairs, 0.5, alternative="greater").pvalue if pairs else 1.0
    assert _chance(gained, lost) == pytest.approx(expected)


def test_targets_that_fit_no_output_are_counted_and_described():
    targets = CLASSES.clone()
    targets[130] = 7  # in the third of four batches
    effect = _effect(_logits(CLASSES), _logits(CLASSES), targets)
    assert (effect.examples, effect.misfits) == (140, 60)
    assert effect.misfit == (
        "60 examples are not scored: targets of shape (60,), from 0 to 7, do not fit outputs of shape (60, 3)"
    )
    effect = _effect(_logits(CLASSES), _logits(CLASSES), torch.zeros(200, 5))
    assert effect.misfit.startswith(
        "accuracy and loss are not compared: targets of shape (60, 5) do not fit outputs of"
    )
    assert effect.summary.endswith(f"; {effect.misfit}")
    assert _effect(_logits(CLASSES), _logits(CLASSES)).misfit == ""
    other_form = PredictionChanges()
    other_form.add([_logits(CLASSES)], [torch.zeros(200, 3, 2)], CLASSES)
    assert other_form.misfit == ""  # that is not about the targets


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.02, 0.3])
def test_losses_are_compared_by_students_test_of_pairs(shift):
    draw = torch.Generator().manual_seed(1)
    before, targets = torch.randn(50, 4, generator=draw), torch.randn(50, 4, generator=draw)
    after = before + shift * torch.sign(before - targets) + 0.1 * torch.randn(50, 4, generator=draw)
    effect = _effect(before, after, targets)
    losses = [(outputs.double() - targets.double()).square().mean(1) for outputs in (before, after)]
    assert effect.loss_before == pytest.approx(losses[0].mean().item())
    assert effect.loss_after == pytest.approx(losses[1].mean().item())
    for sign, alternative in ((1, "less"), (-1, "greater")):
        expected = ttest_rel(losses[0], losses[1], alternative=alternative).pvalue
        assert effect._chance_of_loss(sign) == pytest.approx(expected, rel=1e-6)


def test_paired_counts_and_summary():
    effect = _effect(_logits(CLASSES, wrong=range(10)), _logits(CLASSES, wrong=range(5, 25)))
    assert (effect.examples, effect.gained, effect.lost) == (200, 5, 15)
    assert (effect.accuracy_before, effect.accuracy_after) == (0.95, 0.9)
    assert effect.change == pytest.approx(math.sqrt(2 * 20 / 200))
    assert effect.summary.startswith("accuracy 0.950 -> 0.900, cross-entropy ")
    assert effect.to_json()["accuracy_after"] == 0.9


@pytest.mark.parametrize(
    ("before", "after", "is_worse"),
    [
        (_logits(CLASSES, wrong=range(10)), _logits(CLASSES, wrong=range(10)), False),
        (_logits(CLASSES, wrong=range(10)), _logits(CLASSES, wrong=range(60)), True),
        (_logits(CLASSES, wrong=range(60)), _logits(CLASSES, wrong=range(10)), False),
        # as many wrong answers, other ones
        (_logits(CLASSES, wrong=range(10)), _logits(CLASSES, wrong=range(10, 20)), False),
        # no right answer becomes wrong, but the wrong ones are ten times as sure
        (_logits(CLASSES, wrong=range(40)), _logits(CLASSES, sure=40.0, wrong=range(40)), True),
        # right more often, and less sure of it: not worse
        (_logits(CLASSES, sure=9.0, wrong=range(30)), _logits(CLASSES, sure=0.5), False),
        # what was no better than a guess has nothing to lose
        (_logits(CLASSES, wrong=range(140)), _logits(CLASSES, wrong=range(200)), False),
    ],
)
def test_which_effects_count_as_worse(before, after, is_worse):
    assert _effect(before, after).is_worse is is_worse
    assert Outcome(_effect(before, after)).is_loss is is_worse


def test_outputs_that_became_nan_are_worse_with_and_without_targets():
    before, after = _logits(CLASSES), _logits(CLASSES).clone()
    after[3, 1] = math.nan
    for targets in (CLASSES, torch.arange(200) + 100):
        effect = _effect(before, after, targets)
        assert effect.is_worse and effect.change == math.inf and "1 outputs became inf or NaN" in effect.summary
    back = _effect(after, before)
    assert not back.is_worse and back.recovered == 1


def test_so_few_examples_show_nothing():
    targets = torch.zeros(6, 1)
    few = _effect(torch.zeros(6, 1) + 0.01, torch.ones(6, 1) * 0.9, targets + 0.25)
    assert not few.has_more_loss
    many = _effect(torch.zeros(8, 1) + 0.01, torch.ones(8, 1) * 0.9, torch.linspace(0, 0.1, 8)[:, None])
    assert many.has_more_loss


def test_rounding_is_no_loss():
    draw = torch.Generator().manual_seed(0)
    targets = torch.randn(500, 2, generator=draw)
    exact = targets.double() * (1 + 1e-7)
    assert not _effect(targets, exact.float(), targets).is_worse
    assert not _effect(exact, targets * (1 + 2e-6), targets).is_worse  # twenty times the loss, and still nothing


def test_noisy_labels_do_not_hide_a_loss():
    """Half of the labels are chance: accuracy stays, and the loss of a sure model is many times larger."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=draw)
    shy = torch.randn(400, 2, generator=draw) * 0.1 + 0.5 * functional.one_hot(labels * (torch.arange(400) % 2), 2)
    effect = _effect(shy, shy * 40, labels)
    assert effect.accuracy_before == effect.accuracy_after
    assert effect.has_more_loss and _effect(shy * 40, shy, labels).has_less_loss


class _Noisy(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5, True)


def test_two_models_get_the_same_inputs_under_the_same_random_state_and_stay_as_they_were():
    one, other = _Noisy().train(), _Noisy().eval()
    state = torch.get_rng_state()
    effect = effect_of(one, other, iter([torch.ones(9, 3), (torch.ones(4, 3), torch.zeros(4, 3))]))
    assert effect.change == 0.0 and (effect.examples, effect.has_accuracy) == (4, True)
    assert one.training and not other.training and torch.equal(state, torch.get_rng_state())


def test_keywords_and_a_forward_of_ones_own():
    model = nn.Bilinear(2, 2, 3)
    twin = nn.Bilinear(2, 2, 3)
    x = torch.randn(5, 2)
    by_name = effect_of(model, twin, example_inputs={"input1": x, "input2": x})
    by_forward = effect_of(model, twin, [(x, torch.arange(5) % 3)], forward=lambda m, batch: m(batch[0], batch[0]))
    assert by_name.change == pytest.approx(by_forward.change)
    assert (by_name.examples, by_forward.examples) == (0, 5)


def test_with_a_forward_of_ones_own_only_class_numbers_are_targets():
    """The second entry of a batch may be a further input."""
    one, other, x = nn.Linear(2, 2), nn.Linear(2, 2), torch.randn(5, 2)
    for second, examples in ((torch.rand(5, 2), 0), (torch.ones(5, 2, dtype=torch.bool), 0), (torch.ones(5).long(), 5)):
        assert effect_of(one, other, [(x, second)], forward=lambda m, b: m(b[0])).examples == examples
        assert effect_of(one, other, [(x, second)]).examples == 5


def test_other_shapes_of_outputs_are_another_function():
    effect = effect_of(nn.Linear(2, 3), nn.Linear(2, 4), example_inputs=torch.ones(5, 2))
    assert effect.change == math.inf
    outcome = Outcome.of(nn.Linear(2, 3), nn.Linear(2, 4), example_inputs=torch.ones(5, 2), keeps_outputs=True)
    assert outcome.is_loss and outcome.to_json()["output_change"] is None


@pytest.mark.parametrize(("dtype", "noise", "is_loss"), [(torch.float32, 0.03, True), (torch.bfloat16, 0.03, False), (torch.float32, 1e-4, False)])  # fmt: skip
def test_a_change_that_is_meant_to_change_nothing(dtype, noise, is_loss):
    torch.manual_seed(0)
    model = nn.Linear(8, 8).to(dtype)
    twin = nn.Linear(8, 8).to(dtype)
    twin.load_state_dict({key: tensor * (1 + noise) for key, tensor in model.state_dict().items()})
    batches = [torch.randn(20, 8, dtype=dtype)]
    kept = Outcome.of(model, twin, batches, keeps_outputs=True)
    assert kept.is_loss is is_loss and not Outcome.of(model, twin, batches).is_loss
    if is_loss:
        with pytest.raises(ModelError, match="it computes something else on the data: the output changed by 3%"):
            kept.refuse_loss("it")


def test_a_refusal_has_the_figures():
    outcome = Outcome(_effect(_logits(CLASSES), _logits(CLASSES, wrong=range(60))), where="on the test part of x")
    with pytest.raises(ModelError) as caught:
        outcome.refuse_loss("net", "try again")
    assert str(caught.value).startswith(
        "net is worse than before on the test part of x: accuracy 1.000 -> 0.700, cross-"
    )
    assert str(caught.value).endswith("(200 examples); nothing was written; try again")
