"""What batch norm costs, against counts by hand; times are only held against each other."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bnkit
from bnkit.errors import ModelError, SettingsError
from bnkit.model.instrument.step_timing import Clock, LayerTimer
from bnkit.model.instrument.summary_table import BatchNormCost, BatchNormCosts, Saving

N, C, SIZE = 4, 8, 12
# Autograd keeps the input of a batch norm, and the mean and the deviation of the batch.
INPUT, STATISTICS = N * C * SIZE * SIZE * 4, 2 * C * 4


class Block(nn.Module):
    """A residual block, an activation in place and one as a function, a layer that runs twice, and one that never does."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(C, C, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(C, C, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(C)
        self.twice = nn.BatchNorm2d(C, affine=False)
        self.idle = nn.BatchNorm1d(3)
        self.head = nn.Linear(C, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)) + x)
        return self.head(self.twice(self.twice(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def costs():
    torch.manual_seed(0)
    return bnkit.summary(Block(), torch.randn(N, C, SIZE, SIZE), repetitions=2)


def _by_site(costs):
    return {cost.site: cost for cost in costs}


@pytest.mark.slow
def test_a_row_for_each_batch_norm(costs):
    rows = [(c.site, c.kind, c.channels, c.before, c.after, c.calls, c.parameters) for c in costs]
    assert rows == [
        ("norm1", "BatchNorm2d", C, "conv1", "relu, conv2", 1, 2 * C),
        ("norm2", "BatchNorm2d", C, "conv2", "relu, twice", 1, 2 * C),
        ("twice", "BatchNorm2d", C, "norm2, twice", "twice, head", 2, 0),
        ("idle", "BatchNorm1d", 3, "", "it did not run on the example", 0, 6),
    ]


@pytest.mark.slow
def test_bytes_are_those_that_were_counted_by_hand(costs):
    kept = {site: cost.bytes_kept for site, cost in _by_site(costs).items()}
    # ReLU keeps its output, which is the input of `twice`: it was the first to keep it.
    assert kept == {
        "norm1": INPUT + STATISTICS,
        "norm2": INPUT + STATISTICS,
        "twice": INPUT + 2 * STATISTICS,
        "idle": 0,
    }
    # Besides: the input; what follows norm1, once for relu and conv2; the output of relu; and what goes into the head.
    assert costs.bytes_kept == sum(kept.values()) + 3 * INPUT + N * C * 4


@pytest.mark.slow
def test_recompute_drops_what_follows_a_batch_norm(costs):
    saved = {site: cost.recompute_saves_bytes for site, cost in _by_site(costs).items()}
    (saving,) = [saving for saving in costs.savings if saving.verb == "recompute"]
    assert saved["norm1"] == INPUT and saving.bytes_before == costs.bytes_kept
    assert saving.bytes_before - saving.bytes_after == sum(saved.values())


@pytest.mark.slow
def test_times_add_up(costs):
    for cost in costs:
        assert (cost.forward_ms > 0) == (cost.backward_ms > 0) == (cost.calls > 0)
    totals = costs.totals
    assert 0 < totals["forward_ms"] + totals["backward_ms"] < 2 * costs.step_ms
    assert 0 < totals["share"] < 1 and totals["share"] == pytest.approx(sum(cost.share for cost in costs))
    assert totals["parameters"] == 4 * C + 6


@pytest.mark.slow
def test_what_could_be_saved_and_what_not(costs):
    assert [(saving.verb, saving.why_not) for saving in costs.savings] == [
        ("convert", ""),
        ("recompute", ""),
        ("fold", ""),
    ]
    by_site = _by_site(costs)
    assert by_site["norm1"].fold == "into the output of conv1" and by_site["norm1"].fold_saves_ms is not None
    assert by_site["idle"].fold_saves_ms is None
    assert "fold: not possible for idle: it did not run on the example" in costs.lines
    assert "fused with relu" in by_site["norm1"].convert


def test_a_model_that_gains_nothing():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), bnkit.nn.BatchNorm2d(2, track_running_stats=False))
    costs = bnkit.summary(plain, torch.ones(2, 1, 4, 4), repetitions=1)
    assert [cost.kind for cost in costs] == ["bnkit.BatchNorm2d"]
    reasons = {saving.verb: saving.why_not for saving in costs.savings}
    assert (
        reasons["fold"] == "there is nothing to fold: it has no running statistics: what it does depends on the batch"
    )
    assert reasons["recompute"] == "nothing that is kept can be computed again from the input of a batch norm"
    assert "nothing to convert" in reasons["convert"]
    assert costs.lines[1].startswith("convert: not possible here: there is nothing to convert")


def test_of_many_layers_the_first_two_are_named():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(4))

        def forward(self, x):
            x = self.norm(x)
            return sum(head(x) for head in self.heads)

    (cost,) = bnkit.summary(Heads(), torch.randn(4, 2), repetitions=1)
    assert (cost.before, cost.after) == ("input", "heads.0, heads.1 and 2 more")


def test_a_fused_activation_is_part_of_the_kind():
    (cost,) = bnkit.summary(bnkit.nn.BatchNorm1d(2, activation="relu"), torch.randn(4, 2), repetitions=1)
    assert cost.kind == "bnkit.BatchNorm1d + relu" and cost.site == ""


def test_the_model_stays_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 1))
    model[1].eval()
    model[4].weight.grad = torch.ones(1, 8)
    x = torch.randn(3, 1, 4, 4, requires_grad=True)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    bnkit.summary(model, x, repetitions=1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random) and x.grad is None
    assert torch.equal(model[4].weight.grad, torch.ones(1, 8)) and model[0].weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_lazy_layers_stay_lazy():
    model = nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d())
    (cost,) = bnkit.summary(model, {"input": torch.randn(2, 1, 4, 4)}, repetitions=1)
    assert cost.channels == 2 and isinstance(model[1], nn.LazyBatchNorm2d)


@pytest.mark.parametrize(
    ("model", "repetitions", "error", "message"),
    [
        (nn.Linear(2, 2), 1, ModelError, "Linear holds no batch norm"),
        (nn.BatchNorm1d(3), 1, ModelError, "on the example"),
        (nn.BatchNorm1d(2), 0, SettingsError, "repetitions=0; expected a whole number from 1"),
        (nn.BatchNorm1d(2), "7", SettingsError, "repetitions='7' is a str"),
    ],
)
def test_what_is_refused(model, repetitions, error, message):
    with pytest.raises(error, match=message):
        bnkit.summary(model, torch.ones(3, 2), repetitions=repetitions)


def test_a_batch_of_one_value_is_told_in_a_line():
    with pytest.raises(ModelError, match="more than 1 value per channel"):
        bnkit.summary(nn.BatchNorm1d(2), torch.ones(1, 2), repetitions=1)


def test_only_the_nodes_of_the_layer_are_timed():
    """Those before it belong to others, and so do activations in place behind it."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    timer = LayerTimer({"1": model[1]}, Clock(None))
    with timer.running():
        output = model(torch.randn(4, 2))
    assert timer.times()["1"][1] == 0
    output.sum().backward()
    assert len(timer._backward["1"]) == 1 and timer.times()["1"][1] > 0


def _costs(**saving):
    entry = BatchNormCost(
        "a.b", "BatchNorm2d", 4, "conv", "relu", 1, 8, 1.5, 2.5, 0.1, 2_000_000, "into conv", 0.25, "", 0
    )
    return BatchNormCosts([entry], step_ms=40, bytes_kept=10_000_000, savings=[Saving(**saving)], measured="once")


@pytest.mark.parametrize(
    ("saving", "line"),
    [
        (
            {"verb": "fold", "what": "an evaluation", "ms_before": 40, "ms_after": 44, "ratio": (1.1, 1.1, 1.1)},
            "fold: an evaluation takes 44 ms instead of 40 ms (10% more in one round)",
        ),
        ({"verb": "convert", "what": "a training step", "why_not": "of this"}, "convert: not possible here: of this"),
        (
            {"verb": "convert", "what": "a training step", "ms_before": 40, "ms_after": 30, "ratio": (0.7, 0.75, 0.8), "rounds": 6},
            "convert: a training step takes 30 ms instead of 40 ms (25% less; 95 % interval 30% less to 20% less)",
        ),
        (
            {"verb": "convert", "what": "a training step", "ms_before": 40, "ms_after": 30, "ratio": (0.7, 0.75, 0.8), "rounds": 5},
            "convert: a training step takes 30 ms instead of 40 ms (25% less; 5 rounds from 30% less to 20% less)",
        ),
        (
            {"verb": "convert", "what": "a training step", "ms_before": 40, "ms_after": 200, "ratio": (0.9, 5, 102.4), "rounds": 5},
            "convert: a training step takes 200 ms instead of 40 ms, no clear difference: 5 rounds from 10% less to 102 times as much",
        ),
        (
            {"verb": "recompute", "what": "a training step", "ms_before": 40, "ms_after": 41, "ratio": (0.9, 1.02, 1.1),
             "bytes_before": 10_000_000, "bytes_after": 6_000_000, "rounds": 9},
            "recompute: 6 of 10 MB kept for backward; a training step takes 41 ms instead of 40 ms, no clear difference: 95 % interval 10% less to 10% more",
        ),
    ],
)  # fmt: skip
def test_savings_as_sentences(saving, line):
    assert _costs(**saving).lines[1] == line


def test_the_table_leaves_out_what_matters_least():
    table = _costs(verb="fold", what="an evaluation", why_not="x").rows()
    wide, narrow = (next(text for _, text in table.lines(width)) for width in (200, 40))
    assert "recompute saves MB" in wide and "parameters" in wide
    assert max(len(text) for _, text in table.lines(40)) <= 40 and "share" in "".join(t for _, t in table.lines(40))
    assert "parameters" not in narrow


def test_as_values_and_in_a_notebook():
    costs = _costs(verb="fold", what="an evaluation", why_not="<x>")
    content = json.loads(json.dumps(costs.to_json(), allow_nan=False))
    assert content["batch_norms"][0]["bytes_kept"] == 2_000_000
    assert content["totals"] == {
        "parameters": 8,
        "forward_ms": 1.5,
        "backward_ms": 2.5,
        "share": 0.1,
        "bytes_kept": 2_000_000,
    }
    assert content["savings"][0]["why_not"] == "<x>"
    assert "&lt;x&gt;" in costs._repr_html_() and "<table>" in costs._repr_html_()
    assert repr(costs) == str(costs) and costs[0].site == "a.b" and len(costs[:1]) == 1
