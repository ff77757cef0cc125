"""BN2xx: each fires where it should, and is silent on the repaired model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import bnkit
from bnkit.checks import layer_input_statistics
from bnkit.checks.check import check
from bnkit.checks.fix_findings import apply_fixes
from bnkit.checks.measure_on_data import DataMeasurements, split_quarters
from bnkit.checks.rules.statistics.bn207_different_batches import analyse_variance
from bnkit.errors import DataError, ModelError, SettingsError
from bnkit.kernels.channel_moments import plane_moments
from bnkit.mergeable_moments import Moments
from bnkit.model.inspect.batches import Batches
from bnkit.model.inspect.recognise_batch_norm import batch_norm_sites
from tests.model.third_party_layers import FromScratch


def _data(count=512):
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=draw) * torch.tensor([1.0, 2.0, 4.0, 8.0]) + 5
    return inputs, (inputs[:, 0] > 5).long()


def _batches(size=64):
    inputs, targets = _data()
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def _trained(layer=nn.BatchNorm1d):
    """A classifier that is nearly always right, whose statistics are those of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8, bias=False), layer(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in _batches() * 6:
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    bnkit.recalibrate(model, _batches())
    return model.eval()


def _off(model, by=3.0):
    norm = model[1]
    norm.running_mean.add_(by * norm.running_var.sqrt() * torch.tensor([1.0, -1.0] * 4))
    return model


def _accuracy(model):
    inputs, targets = _data()
    return (model(inputs).argmax(1) == targets).double().mean().item()


def test_what_is_found_is_what_recalibration_gives():
    model = _off(_trained())
    before = _accuracy(model)
    (finding,) = check(model, _batches(), test_batches=_batches(), select="BN201")
    assert finding.severity == "error" and finding.site == "1"
    assert finding.measured["accuracy"] == pytest.approx(before)
    assert finding.measured["examples"] == 512
    repaired, changes = apply_fixes(model, [finding], _batches())
    assert finding.measured["accuracy_population"] == pytest.approx(_accuracy(repaired), abs=1 / 512)
    assert [(change.site, change.action) for change in changes] == [("1", "recalibrated")]
    assert _accuracy(model) == before
    assert not check(repaired, _batches(), select="BN201")


def test_a_drift_that_costs_nothing_is_no_finding():
    model = _trained()
    model[3].weight.data[:, 0] = 0.0  # the next layer does not use this channel
    bnkit.recalibrate(model, _batches())
    model[1].running_mean[0] += 100
    assert not check(model, _batches(), select="BN201")


def test_a_moving_average_that_does_better_is_no_finding():
    model = _off(_trained())
    inputs, _ = _data()
    answers = model(inputs).argmax(1)
    batches = list(zip(inputs.split(64), answers.split(64), strict=True))
    assert not check(model, batches, select="BN201")


def test_without_class_numbers_the_outputs_decide():
    model = _off(_trained())
    (finding,) = check(model, [inputs for inputs, _ in _batches()], select="BN201")
    assert finding.severity == "warning" and finding.measured["output_change"] > 0.1
    assert "the outputs differ by" in finding.message
    # So few examples that the drift may be chance
    assert not check(_off(_trained(), by=0.3), _data()[0][:4], select="BN201")
    model[1].running_mean[0] = math.nan
    (finding,) = check(model, [inputs for inputs, _ in _batches()], select="BN201")
    assert finding.severity == "error"


LABELS = {
    "true": _data()[1],
    "random": torch.randint(2, (512,), generator=torch.Generator().manual_seed(0)),
    "values": None,  # what the model answers when its statistics are those of the data
}


@pytest.mark.parametrize(
    ("labels", "channel", "severity", "key"),
    [
        ("true", 3, "error", "accuracy"),
        ("true", 1, "warning", "output_change"),
        ("random", 3, "warning", "loss"),
        ("random", 1, "warning", "output_change"),
        ("values", 1, "warning", "loss"),
    ],
)
def test_five_deviations_do_not_pass_unnoticed(labels, channel, severity, key):
    targets = LABELS[labels] if LABELS[labels] is not None else _trained()(_data()[0]).detach()
    batches = list(zip(_data()[0].split(64), targets.split(64), strict=True))
    model = _trained()
    assert not check(model, batches, test_batches=batches, select="BN201")
    model[1].running_mean[channel] -= 5 * model[1].running_var[channel].sqrt()
    (finding,) = check(model, batches, test_batches=batches, select="BN201")
    assert (finding.severity, next(iter(finding.measured))) == (severity, key)
    assert finding.message.splitlines()[1].startswith("furthest off: 1 (mean 5 deviations")


def test_the_losses_of_a_finding_are_those_before_and_after_recalibration():
    inputs, targets = _data()[0], LABELS["random"]
    batches = list(zip(inputs.split(64), targets.split(64), strict=True))
    model = _trained()
    model[1].running_mean[3] -= 5 * model[1].running_var[3].sqrt()
    (finding,) = check(model, batches, test_batches=batches, select="BN201")
    assert finding.measured["loss"] == pytest.approx(functional.cross_entropy(model(inputs), targets).item(), rel=1e-5)
    bnkit.recalibrate(model, batches)
    after = functional.cross_entropy(model(inputs), targets).item()
    assert finding.measured["loss_population"] == pytest.approx(after, rel=1e-5)
    before = finding.measured["loss"]
    assert (
        f"cross-entropy {before:.4g} with the moving average, {after:.4g} with the statistics of the data"
        in finding.message
    )


def test_test_batches_are_gone_through_once_and_the_same_for_both():
    """A loader that draws other examples each time: both answers are to the same ones."""

    class Drawing:
        def __iter__(self):
            for _ in range(4):
                inputs = torch.randn(64, 4) * torch.tensor([1.0, 2.0, 4.0, 8.0]) + 5
                yield inputs, (inputs[:, 0] > 5).long()

    assert not check(_trained(), _batches(), test_batches=Drawing(), select="BN201")
    effect = DataMeasurements(
        model := _trained(), batch_norm_sites(model), Batches(_batches()), Batches(Drawing())
    ).effect
    assert effect.examples == 256 and effect.change < 1e-3


def test_frozen_layers_and_others_that_cannot_be_recalibrated_are_left_alone():
    model = _off(_trained())
    bnkit.freeze(model)
    assert not check(model, _batches(), select="BN201")


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d,
        bnkit.nn.BatchNorm1d,
        lambda c: bnkit.nn.BatchNorm1d(c, skip_nonfinite=True),
        lambda c: bnkit.nn.BatchNorm1d(c, virtual_batch_size=16),
    ],
)
def test_the_moments_are_those_of_the_data(layer):
    model = _trained(layer).double()
    inputs = _data()[0].double()
    batches = [inputs[:64], inputs[64:65], inputs[65:200]]  # one of a single example, which has no deviation
    measured = DataMeasurements(model, batch_norm_sites(model), Batches(batches))
    collected = measured.input_statistics["1"]
    seen = model[0](inputs[:200])
    assert torch.allclose(collected.population.mean, seen.mean(0))
    assert torch.allclose(collected.population.variance(), seen.var(0))
    assert [int(moments.count) for moments in collected.batches] == [64, 1, 135]
    assert (collected.calls, collected.examples, measured.count) == ([1, 1, 1], 200, 3)


def test_the_moments_of_a_users_own_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), FromScratch(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    images = torch.randn(6, 3, 8, 8)
    collected = DataMeasurements(model, batch_norm_sites(model), Batches([images[:4], images[4:]])).input_statistics
    seen = model[0](images)
    assert list(collected) == ["1", "4"]
    assert torch.allclose(collected["1"].population.mean.float(), seen.mean((0, 2, 3)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [nn.BatchNorm2d, bnkit.nn.BatchNorm2d])
def test_long_batches_are_measured_by_compiled_loops(monkeypatch, layer):
    """The same moments, outputs and findings, at the speed of memory."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), layer(8), nn.ReLU(), nn.Conv2d(8, 4, 3), layer(4, affine=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    images = [torch.randn(6, 3, 20, 20, generator=draw) for _ in range(3)]
    images[1][:, 0] += 100  # batches of different distributions
    measured, found = [], []
    monkeypatch.setattr(layer_input_statistics, "plane_moments", lambda x: measured.append(x) or plane_moments(x))
    for least in (1 << 40, 0):
        monkeypatch.setattr(layer_input_statistics, "_LONG", least)
        found.append(DataMeasurements(model, batch_norm_sites(model), Batches(images)))
    assert len(measured) == 6
    by_pytorch, by_loops = found
    for name in ("1", "4"):
        one, other = by_pytorch.input_statistics[name], by_loops.input_statistics[name]
        assert torch.allclose(one.population.mean, other.population.mean, rtol=1e-5, atol=1e-6)
        assert torch.allclose(one.population.variance(), other.population.variance(), rtol=1e-5)
        assert one.calls == other.calls == [1, 1, 1]
        assert [len(means) for means in one.means] == [len(means) for means in other.means]
        assert all(torch.allclose(*means, rtol=1e-4, atol=1e-5) for means in zip(one.means, other.means, strict=True))
    assert by_pytorch.effect.change == pytest.approx(by_loops.effect.change, rel=1e-4)
    texts = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(layer_input_statistics, "_LONG", least)
        texts.append(str(check(model, images, select="BN2")))
    assert texts[0] == texts[1] and "BN207" in texts[0]


def test_what_the_loops_cannot_take_is_measured_all_the_same(monkeypatch):
    monkeypatch.setattr(layer_input_statistics, "_LONG", 0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 9, 9).to(memory_format=torch.channels_last)
    population = DataMeasurements(model, batch_norm_sites(model), Batches([images])).input_statistics["1"].population
    assert torch.allclose(population.mean, Moments.of(model[0](images)).mean, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(nn.BatchNorm2d(4, dtype=torch.float64), id="of another dtype"),
        pytest.param(nn.BatchNorm2d(5), id="of other channels"),
        pytest.param(nn.BatchNorm1d(4), id="of another rank"),
    ],
)
@pytest.mark.parametrize("least", [0, 1 << 40])
def test_what_pytorch_refuses_is_refused(monkeypatch, layer, least):
    monkeypatch.setattr(layer_input_statistics, "_LONG", least)
    model = nn.Sequential(layer)
    with pytest.raises(ModelError, match="Sequential raised"):
        DataMeasurements(model, batch_norm_sites(model), Batches([torch.randn(2, 4, 8, 8)]))


@pytest.mark.parametrize(
    ("batch", "least", "expected"),
    [
        (torch.arange(9), 1, (torch.arange(3), torch.arange(3, 6))),
        (torch.arange(3), 1, (torch.arange(1), torch.arange(1, 2))),
        (torch.arange(3), 2, (torch.arange(2), None)),
        (torch.arange(4), 2, (torch.arange(2), torch.arange(2, 4))),
        ((torch.ones(4, 2), torch.arange(4)), 1, ((torch.ones(1, 2), torch.arange(1)), (torch.ones(1, 2), torch.arange(1, 2)))),
        ([torch.ones(4, 2)], 1, ([torch.ones(1, 2)], [torch.ones(1, 2)])),
        ({"x": torch.ones(5)}, 1, ({"x": torch.ones(2)}, {"x": torch.ones(2)})),
        ((torch.ones(3, 4), torch.arange(4)), 1, None),  # they do not count the same
        (torch.ones(1, 4), 1, None),
        (torch.tensor(3.0), 1, None),
        ((torch.ones(4), "a word"), 1, None),
    ],
)  # fmt: skip
def test_a_batch_is_split_into_quarters(batch, least, expected):
    first, second = split_quarters(batch, least)
    if expected is None:
        assert first is batch and second is None
    else:
        assert repr((first, second)) == repr(expected)


def test_a_second_quarter_is_judged_where_the_first_shows_a_gain():
    model, batches = _off(_trained()), _batches(256)
    effect = DataMeasurements(model, batch_norm_sites(model), Batches(batches)).effect
    assert effect.examples == 128 and effect.gained > effect.lost
    inputs, targets = batches[0]
    before = (_off(_trained())(inputs[:128]).argmax(1) == targets[:128]).sum()
    assert effect.right_before == int(before)
    healthy = _trained()
    assert DataMeasurements(healthy, batch_norm_sites(healthy), Batches(batches)).effect.examples == 64


def _reset(model, *names):
    for name in names:
        model.get_submodule(name).reset_running_stats()
    return model


@pytest.mark.parametrize(
    ("make", "sites"),
    [
        (_trained, []),
        (lambda: _reset(_trained(), "1"), ["1"]),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), []),  # new as a whole
        (lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), []),
    ],
)
def test_never_updated(make, sites):
    assert [finding.site for finding in check(make(), select="BN202")] == sites


def test_never_updated_beside_one_that_was():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0](torch.randn(8, 4))
    assert [finding.site for finding in check(model, select="BN202")] == ["2"]
    repaired, _ = apply_fixes(model, check(model, select="BN202"), [torch.randn(32, 4)])
    assert not check(repaired, select="BN202")


@pytest.mark.parametrize(
    ("name", "value"), [("running_mean", math.nan), ("running_var", math.inf), ("running_var", -1.0)]
)
def test_non_finite_running_stats(name, value):
    model = _trained()
    assert not check(model, select="BN203")
    getattr(model[1], name)[2:4] = value
    (finding,) = check(model, select="BN203")
    assert (finding.site, finding.measured, finding.severity) == ("1", 2, "error")
    repaired, _ = apply_fixes(model, [finding], _batches())
    assert not check(repaired, _batches(), select="BN203")


def test_a_non_finite_batch():
    batches = [inputs.clone() for inputs, _ in _batches()]
    batches[3][5, 1] = math.inf
    (finding,) = check(_trained(), batches, select="BN203")
    assert (finding.site, finding.measured) == ("1", 1) and "batch 4" in finding.message


def test_channels_without_variance():
    model = _trained()
    assert not check(model, _batches(), select="BN204")
    model[0].weight.data[3:5] = 0.0
    (finding,) = check(model, _batches(), select="BN204")
    assert (finding.site, finding.measured) == ("1", 2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.ones(8), []),
        (torch.zeros(8), []),  # as some blocks begin
        (torch.tensor([1.0] * 7 + [1e-8]), [("note", 1)]),
        (torch.tensor([1.0] * 7 + [0.01]), []),
        (torch.tensor([1.0] * 7 + [-500.0]), [("warning", 500.0)]),
        (torch.tensor([1.0] * 7 + [math.nan]), [("warning", math.inf)]),
    ],
)
def test_extreme_gamma(values, expected):
    model = _trained()
    model[1].weight.data.copy_(values)
    assert [(f.severity.value, f.measured) for f in check(model, select="BN205")] == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([8, 8, 8], [("warning", 8)]), ([16, 16, 16], []), ([32, 32, 5], []), ([1, 1, 1], [("error", 1)])],
)
def test_few_values(sizes, expected):
    batches = [torch.randn(size, 4) for size in sizes]
    assert [(f.severity.value, f.measured) for f in check(_trained(), batches, select="BN206")] == expected


def test_batches_that_differ():
    inputs, _ = _data()
    assert not check(_trained(), inputs, batch_size=64, select="BN207")
    (finding,) = check(_trained(), inputs[inputs[:, 3].argsort()], batch_size=64, select="BN207")
    assert finding.site == "1" and finding.measured > 0.05


def test_the_analysis_of_variance():
    # Hays's ω² by hand: sums of squares 6 within, 13.5 between, 3 degrees of freedom within... of two groups of three
    groups = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[4.0], [5.0], [6.0]])]
    analysis = analyse_variance([group.double() for group in groups])
    within, total = 4.0, 17.5
    noise = within / 4
    assert analysis.share == pytest.approx((total - within - noise) / (total + noise))
    assert analysis.p_value == pytest.approx(0.0213, abs=1e-4)  # of F(1, 4) = 13.5
    assert analyse_variance(groups[:1]) is None
    assert analyse_variance([torch.ones(3, 1), torch.ones(3, 1)]) is None


class Checkpointed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False) if self.training else super().forward(x)


def test_statistics_that_are_updated_twice():
    def model(layer):
        return nn.Sequential(Checkpointed(nn.Linear(4, 4), layer(4), nn.ReLU()), nn.BatchNorm1d(4))

    (finding,) = check(model(nn.BatchNorm1d), example_inputs=torch.randn(4, 4), select="BN208")
    assert finding.site == "0.1"
    assert not check(model(bnkit.nn.BatchNorm1d), example_inputs=torch.randn(4, 4), select="BN208")
    # It is true: the counter says so.
    trained = model(nn.BatchNorm1d)
    trained(torch.randn(4, 4, requires_grad=True)).sum().backward()
    assert (int(trained[0][1].num_batches_tracked), int(trained[1].num_batches_tracked)) == (2, 1)


def test_batches_that_are_empty_or_an_iterator_are_refused():
    with pytest.raises(DataError, match="batches is empty"):
        check(_trained(), [], select="BN2")
    with pytest.raises(SettingsError, match="test_batches is a list_iterator"):
        check(_trained(), _batches(), test_batches=iter(_batches()))
