"""eps and momentum of every batch norm of a network, third-party ones included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bnkit
from bnkit.errors import SettingsError
from bnkit.experiments.networks import from_factories, network_sources
from bnkit.experiments.networks.batch_norm_settings import ineffective, set_batch_norms
from bnkit.experiments.run_settings import Settings
from tests.experiments import tiny_experiment
from tests.model.third_party_layers import FromScratch, Frozen2d

BOTH = ("bn_eps", "bn_momentum")


class _FixedEps(Frozen2d):
    """Another library's, whose eps is written into its forward."""

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def _frozen(layer):
    bnkit.freeze(layer)
    return layer


LAYERS = {
    "torch": (lambda: nn.BatchNorm2d(3), ()),
    "ours": (lambda: bnkit.nn.BatchNorm2d(3, activation="relu"), ()),
    "sync": (lambda: nn.SyncBatchNorm(3), ()),
    "lazy": (nn.LazyBatchNorm2d, ()),
    "one dimension": (lambda: nn.BatchNorm1d(3, momentum=None), ()),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), ("bn_momentum",)),
    "frozen": (lambda: _frozen(nn.BatchNorm2d(3)), ("bn_momentum",)),
    "a user's": (lambda: FromScratch(3), ()),
    "another library's": (lambda: Frozen2d(3), ("bn_momentum",)),
    "group norm": (lambda: nn.GroupNorm(1, 3), BOTH),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), BOTH),
    "none": (nn.ReLU, BOTH),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_batch_norm_is_set_and_nothing_else(layer):
    make, without_effect = LAYERS[layer]
    model = nn.Sequential(nn.Conv2d(1, 3, 1), make())
    before = {name: getattr(model[1], name, None) for name in ("eps", "momentum")}
    assert ineffective(model) == without_effect
    set_batch_norms(model, Settings(), "n")
    assert {name: getattr(model[1], name, None) for name in before} == before
    set_batch_norms(model, Settings(bn_eps=0.5, bn_momentum=1.0), "n")
    changed = (
        before if without_effect == BOTH else {"eps": 0.5, "momentum": 1.0 if hasattr(model[1], "momentum") else None}
    )
    assert {name: getattr(model[1], name, None) for name in before} == changed


def test_an_eps_that_cannot_be_set_is_refused():
    with pytest.raises(
        SettingsError, match="bn_eps=0.5 with network n, whose 0 is a _FixedEps that takes no eps from outside"
    ):
        set_batch_norms(nn.Sequential(_FixedEps(3)), Settings(bn_eps=0.5), "n")


@pytest.mark.parametrize("arm", ["batch_norm", "reference", "torch"])
def test_networks_by_name_and_twins_of_one_factory(arm):
    settings = Settings(bn_eps=0.25, bn_momentum=0.75)
    named = network_sources(["lenet"], [arm])[arm].build((1, 28, 28), 10, settings, 0)
    twin = from_factories(tiny_experiment.plain, arms=[arm])[arm].build((6,), 3, settings, 0)
    for model, count in ((named, 4), (twin, 1)):
        layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert [(layer.eps, layer.momentum) for layer in layers] == [(0.25, 0.75)] * count


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bn_eps", 0.0, "expected 'default', or a number above 0"),
        ("bn_eps", -1e-5, "expected 'default', or a number above 0"),
        ("bn_eps", float("nan"), "expected 'default', or a number above 0"),
        ("bn_eps", float("inf"), "expected 'default', or a number above 0"),
        ("bn_eps", None, "expected 'default', or a number above 0"),
        ("bn_momentum", 1.5, "expected 'default', or a number from 0 to 1"),
        ("bn_momentum", -0.1, "expected 'default', or a number from 0 to 1"),
        ("bn_momentum", True, "expected 'default', or a number from 0 to 1"),
        ("bn_momentum", "slow", "expected 'default', or a number from 0 to 1"),
    ],
)
def test_nonsense_is_refused_before_anything_is_trained(tmp_path, key, value, message):
    grid = {"lr": [0.1], "batch_size": [16], key: ["default", value]}
    with pytest.raises(SettingsError, match=message):
        bnkit.compare(tiny_experiment.NETWORKS, tiny_experiment.data(), grid, 1, epochs=1, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_setting_without_effect_on_any_network_is_refused(tmp_path):
    with pytest.raises(
        SettingsError, match="grid: bn_momentum, and none of the networks plain has a batch norm that moves"
    ):
        bnkit.compare(
            {"plain": tiny_experiment.plain},
            tiny_experiment.data(),
            {"lr": [0.1], "batch_size": [16], "bn_momentum": [0.1, 0.2]},
            out=tmp_path / "r",
        )


@pytest.mark.slow
def test_one_run_without_batch_norm_serves_all_values(tmp_path):
    def compare(**keys):
        return bnkit.compare(
            tiny_experiment.NETWORKS,
            tiny_experiment.data(),
            {"lr": [0.05], "batch_size": [16], **keys},
            2,
            epochs=1,
            validation=0.0,
            out=tmp_path / "r",
        )

    plain = {run.run_id for run in compare().plan if run.network.key == "no_batch_norm"}
    comparison = compare(bn_momentum=[0.01, 0.9])
    runs = [(run.number, run.network.key, run.settings.bn_momentum, run.seed) for run in comparison.plan]
    assert runs == [
        (1, "no_batch_norm", None, 0), (2, "batch_norm", 0.01, 0), (3, "batch_norm", 0.9, 0),
        (4, "no_batch_norm", None, 1), (5, "batch_norm", 0.01, 1), (6, "batch_norm", 0.9, 1),
    ]  # fmt: skip
    # Those that were trained before the key was known.
    assert {run.run_id for run in comparison.plan if run.network.key == "no_batch_norm"} == plain
    header, *rows = (line.split(",") for line in comparison.folder.results_file.read_text().splitlines())
    column = header.index("bn_momentum")
    assert [row[column] for row in rows][:6] == ["", "0.01", "0.9", "", "0.01", "0.9"]
    contrasts = [c for c in comparison.answer.contrasts if c.setting.get("bn_momentum") != "default"]
    assert [(c.setting["bn_momentum"], c.best.test.n) for c in contrasts] == [(0.01, 2), (0.9, 2)]
    assert {c.best.baseline_mean for c in contrasts} == {contrasts[0].best.baseline_mean}
    # Momentum moves the running statistics and nothing else.
    tests, losses = (
        {comparison.records[run.run_id].last.test_loss for run in comparison.plan if run.seed == 0 and run.number > 1},
        {comparison.records[run.run_id].last.loss for run in comparison.plan if run.seed == 0 and run.number > 1},
    )
    assert (len(tests), len(losses)) == (2, 1)
    page = comparison.folder.report_file.read_text()
    assert "lr 0.05, bn_momentum 0.01" in page
    assert comparison.load(2).norm.momentum == 0.01
    assert bnkit.Comparison(tmp_path / "r").plan.runs == comparison.plan.runs


def test_eps_changes_what_is_computed():
    settings = [Settings(bn_eps=eps) for eps in (1e-5, 10.0)]
    source = from_factories(tiny_experiment.NETWORKS)["batch_norm"]
    models = [source.build((6,), 3, each, 0).eval() for each in settings]
    inputs = torch.randn(4, 6)
    assert not torch.allclose(models[0](inputs), models[1](inputs))


def test_an_eps_that_cannot_be_set_is_refused_before_anything_is_trained(tmp_path):
    networks = {"n": lambda: nn.Sequential(nn.Unflatten(1, (6, 1, 1)), _FixedEps(6), nn.Flatten(), nn.Linear(6, 3))}
    grid = {"lr": [0.1], "batch_size": [16], "bn_eps": ["default", 0.5]}
    with pytest.raises(SettingsError, match="bn_eps=0.5 with network n, whose 1 is a _FixedEps"):
        bnkit.compare(networks, tiny_experiment.data(), grid, 1, epochs=1, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
