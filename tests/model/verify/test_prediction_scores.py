"""How good answers are, against torch's losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from bnkit.model.verify.prediction_scores import Scoring, Spread

_DRAW = torch.Generator().manual_seed(0)
_LOGITS = torch.randn(40, 5, generator=_DRAW)
_CLASSES = torch.randint(5, (40,), generator=_DRAW)
_PIXELS = torch.randn(6, 3, 4, 4, generator=_DRAW)
_MASKS = torch.randint(3, (6, 4, 4), generator=_DRAW)
_VALUES = torch.randn(40, 5, generator=_DRAW)
_YES = torch.randint(2, (40, 5), generator=_DRAW)
_YES[0] = torch.tensor([1, 1, 0, 0, 0])
_SHARES = torch.randn(40, 5, generator=_DRAW).softmax(1)


@pytest.mark.parametrize(
    ("output", "targets", "kind", "loss", "accuracy"),
    [
        (_LOGITS, _CLASSES, "classes", functional.cross_entropy(_LOGITS, _CLASSES), (_LOGITS.argmax(1) == _CLASSES)),
        (_LOGITS, _CLASSES[:, None], "classes", functional.cross_entropy(_LOGITS, _CLASSES), (_LOGITS.argmax(1) == _CLASSES)),
        (_LOGITS.softmax(1), _CLASSES.int(), "classes", functional.cross_entropy(_LOGITS, _CLASSES), (_LOGITS.argmax(1) == _CLASSES)),
        (_LOGITS.log_softmax(1), _CLASSES, "classes", functional.cross_entropy(_LOGITS, _CLASSES), (_LOGITS.argmax(1) == _CLASSES)),
        (_PIXELS, _MASKS, "classes", functional.cross_entropy(_PIXELS, _MASKS), (_PIXELS.argmax(1) == _MASKS)),
        (_LOGITS, _YES.float(), "yes or no", functional.binary_cross_entropy_with_logits(_LOGITS, _YES.float()), ((_LOGITS > 0) == (_YES > 0))),
        (_LOGITS.sigmoid(), _YES.float(), "yes or no", functional.binary_cross_entropy_with_logits(_LOGITS, _YES.float()), ((_LOGITS > 0) == (_YES > 0))),
        (_LOGITS[:, :1], _YES[:, 0], "yes or no", functional.binary_cross_entropy_with_logits(_LOGITS[:, 0], _YES[:, 0].float()), ((_LOGITS[:, 0] > 0) == (_YES[:, 0] > 0))),
        (_LOGITS[:, 0], _YES[:, :1].float(), "yes or no", functional.binary_cross_entropy_with_logits(_LOGITS[:, 0], _YES[:, 0].float()), ((_LOGITS[:, 0] > 0) == (_YES[:, 0] > 0))),
        (_LOGITS, _SHARES, "shares", functional.cross_entropy(_LOGITS, _SHARES), (_LOGITS.argmax(1) == _SHARES.argmax(1))),
        (_LOGITS.softmax(1), _SHARES, "shares", functional.cross_entropy(_LOGITS, _SHARES), (_LOGITS.argmax(1) == _SHARES.argmax(1))),
        (_LOGITS, functional.one_hot(_CLASSES, 5), "shares", functional.cross_entropy(_LOGITS, _CLASSES), (_LOGITS.argmax(1) == _CLASSES)),
        (_LOGITS, _VALUES, "values", functional.mse_loss(_LOGITS, _VALUES), None),
        (_LOGITS[:, :1], _VALUES[:, 0], "values", functional.mse_loss(_LOGITS[:, 0], _VALUES[:, 0]), None),
        (_PIXELS, _PIXELS + 1, "values", torch.tensor(1.0), None),
    ],
)  # fmt: skip
def test_the_losses_are_torchs(output, targets, kind, loss, accuracy):
    scoring = Scoring.of([output], targets)
    assert scoring is not None and scoring.kind == kind
    scores = scoring.scores([output], targets)
    assert scores.loss.shape == (len(output),)
    assert scores.loss.mean().item() == pytest.approx(loss.item(), rel=1e-5)
    if accuracy is None:
        assert scores.right is None
    else:
        assert scores.right.mean().item() == pytest.approx(accuracy.double().mean().item())


@pytest.mark.parametrize(
    ("output", "targets"),
    [
        (_LOGITS, None),
        (_LOGITS, [1, 2]),
        (_LOGITS, _CLASSES[:7]),
        (_LOGITS, _CLASSES + 3),  # class numbers that there are no outputs for
        (_LOGITS, -_CLASSES),
        (_LOGITS, torch.randn(40, 3)),
        (_LOGITS, torch.randint(9, (40, 5))),
        (_LOGITS[:0], _CLASSES[:0]),
        (torch.tensor(3.0), torch.tensor(3)),
        (_LOGITS, torch.randn(40, 5, dtype=torch.complex64)),
    ],
)
def test_targets_that_fit_no_output(output, targets):
    assert Scoring.of([output], targets) is None


def test_the_output_that_fits_is_found_among_several():
    scoring = Scoring.of([_PIXELS, _LOGITS], _CLASSES)
    assert scoring is not None and scoring.position == 1
    assert scoring.scores([_PIXELS], _CLASSES) is None


def test_what_is_not_finite_is_wrong():
    output = _LOGITS.clone()
    output[3, 1] = math.nan
    output[4, 2] = math.inf
    scores = Scoring.of([_LOGITS], _CLASSES).scores([output], _CLASSES)
    assert scores.right[3:5].sum() == 0 and not scores.loss[3:5].isfinite().any()
    assert scores.loss.isfinite().sum() == 38
    zero = torch.zeros(40, 5)
    zero[:, 0] = 1.0  # a probability of 0 has a large loss, and a finite one
    assert Scoring.of([zero], _CLASSES).scores([zero], _CLASSES).loss.isfinite().all()


def test_the_spread_of_the_targets():
    targets, spread = torch.tensor([[1.0, 5.0], [3.0, 5.0], [1.0, 5.0], [3.0, 5.0]]), Spread()
    assert spread.variance == 0.0
    spread.add(targets[:3])
    spread.add(targets[3:])
    assert spread.variance == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("output", "targets", "classes"),
    [(_LOGITS, _CLASSES, 5), (_PIXELS, _MASKS, 3), (_LOGITS, _YES.float(), 2), (_LOGITS, _SHARES, 5), (_LOGITS, _VALUES, 0)],
)  # fmt: skip
def test_the_number_of_scored_answers(output, targets, classes):
    assert Scoring.of([output], targets).classes == classes
