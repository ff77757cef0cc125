"""Some steps of training by Lightning's own Trainer, with each callback and without."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bnkit
from bnkit.integrations.lightning import FreezeCallback, MonitorCallback, RecalibrateCallback
from tests.integrations.equal_training import same

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")]  # fmt: skip


class Net(pl.LightningModule):
    def __init__(self, width=4, dropout=0.3):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2)
        )
        self.validated = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.validated.append(self(batch[0]).clone())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def _data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 3, generator=generator) + 2
    return TensorDataset(x, (x.sum(1) > 6).long())


INPUTS = _data().tensors[0]


def _train(*callbacks, shuffle=True, epochs=2, resume=None, dropout=0.3, **options):
    torch.manual_seed(1)
    module = Net(dropout=dropout)
    data = _data()
    order = torch.Generator().manual_seed(3)
    train = DataLoader(data, 8, shuffle=shuffle, generator=order if shuffle else None)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), **{"enable_checkpointing": False, "accumulate_grad_batches": 2, **options},
    )  # fmt: skip
    trainer.fit(module, train, DataLoader(data, 16), ckpt_path=resume)
    state = {
        "module": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "random": torch.get_rng_state(),
        "order": order.get_state(),
    }
    return module, state


class _Copies(pl.Callback):
    """The state of the module at each validation."""

    def __init__(self):
        self.states = []

    def on_validation_start(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})


@pytest.fixture(scope="module")
def plain():
    copies = _Copies()
    module, state = _train(copies)
    return module, state, copies.states


@pytest.mark.parametrize("validation", [{}, {"val_check_interval": 3}], ids=["by epoch", "by step"])
def test_what_only_looks_changes_nothing_of_the_training(plain, validation):
    without = _train(**validation)[1] if validation else plain[1]
    module, state = _train(MonitorCallback(every=2, share=1.0), RecalibrateCallback(), **validation)
    assert same(state, without)
    assert len(module.validated) == (2 + 2 * 3 if not validation else 2 + 4 * 3)  # the sanity check has two batches


def test_the_monitor_counts_steps_of_the_optimizer_and_knows_the_trainer():
    seen = []
    monitor = MonitorCallback(every=2, share=1.0, on_findings=seen.append)
    _train(monitor)
    assert (monitor.monitor.steps, monitor.monitor.looks) == (6, [2, 4, 6])
    assert ("BN101", "net.0") in {(finding.code, finding.site) for finding in seen[0]}  # a bias before a batch norm


def test_validation_sees_the_statistics_of_the_data(plain):
    _, _, states = plain
    module, _ = _train(RecalibrateCallback(limit=None))
    expected = []
    for state in states:
        copy = Net()
        copy.load_state_dict(state)
        with bnkit.recalibrated(copy.eval(), INPUTS):
            expected.append(copy(INPUTS))
    validated = module.validated[2:]
    assert torch.allclose(torch.cat(validated), torch.cat(expected), atol=1e-5)
    moving_average = Net()
    moving_average.load_state_dict(states[0])
    assert not torch.allclose(torch.cat(validated[:3]), moving_average.eval()(INPUTS), atol=0.1)


def test_limit_takes_the_first_batches_and_own_batches_replace_them(plain):
    few, own = RecalibrateCallback(limit=2), RecalibrateCallback([INPUTS[:10]])
    _train(few)
    _train(own)
    assert (few.recalibration.batches, few.recalibration.layers[0].count) == (2, 16)
    assert (own.recalibration.batches, own.recalibration.layers[0].count) == (1, 10)


def test_kept_statistics_replace_the_moving_averages(plain):
    module, state = _train(RecalibrateCallback(limit=None, keep=True))
    reference = Net()
    reference.load_state_dict(state["module"])
    bnkit.recalibrate(reference, INPUTS)
    assert torch.allclose(module.net[1].running_mean, reference.net[1].running_mean, atol=1e-5)
    assert not torch.equal(module.net[1].running_mean, plain[0].net[1].running_mean)
    weights = [name for name in state["module"] if "running" not in name]
    assert all(torch.equal(state["module"][name], plain[1]["module"][name]) for name in weights)


def test_a_checkpoint_has_the_statistics_of_the_data_and_resumes_as_if_nothing_had_been(tmp_path):
    def train(folder, **more):
        checkpoints = pl.callbacks.ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)
        options = {"shuffle": False, "dropout": 0.0, "enable_checkpointing": True, **more}
        return _train(RecalibrateCallback(limit=None), checkpoints, **options)[1]

    whole = train(tmp_path)
    file = tmp_path / "epoch=0.ckpt"
    saved = torch.load(file, weights_only=True)["state_dict"]
    reference = Net()
    reference.load_state_dict(saved)
    bnkit.recalibrate(reference, INPUTS)
    for name in ("net.1.running_mean", "net.1.running_var"):
        assert torch.allclose(saved[name], reference.state_dict()[name], atol=1e-5)
    resumed = train(tmp_path / "again", resume=file)
    assert same(resumed["module"], whole["module"])
    assert same(resumed["optimizer"], whole["optimizer"])


def test_frozen_layers_hold_still_from_their_epoch_on(plain):
    copies = _Copies()
    module, _ = _train(FreezeCallback(start_epoch=1), copies, RecalibrateCallback())
    first, second = copies.states
    assert same(first, plain[2][0])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[f"net.1.{name}"], second[f"net.1.{name}"])
    assert not torch.equal(first["net.1.weight"], second["net.1.weight"])  # gamma learns
    assert not module.train().net[1].training


def test_frozen_with_affine_holds_gamma_and_beta_too():
    module, _ = _train(FreezeCallback(affine=True))
    assert torch.equal(module.net[1].weight, torch.ones(4))
    assert torch.equal(module.net[1].bias, torch.zeros(4))


@pytest.mark.parametrize("callback", [FreezeCallback(1, include="norm"), RecalibrateCallback(include="norm")])
def test_a_pattern_that_matches_nothing_is_refused_before_the_first_step(callback):
    module = Net()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, callbacks=[callback])  # fmt: skip
    with pytest.raises(
        bnkit.errors.SettingsError, match="no place matches 'norm'; expected a pattern for one of net.1"
    ):
        trainer.fit(module, DataLoader(_data(), 16), DataLoader(_data(), 16))
    assert trainer.global_step == 0 and module.validated == []


def test_without_a_loader_it_says_what_to_give():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False, callbacks=[RecalibrateCallback()])  # fmt: skip
    with pytest.raises(
        bnkit.errors.SettingsError, match=r"the trainer has nothing as its training data; expected a DataL"
    ):
        trainer.validate(Net(), DataLoader(_data(), 16), verbose=False)


def test_without_lightning_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "bnkit.integrations.lightning")
    with pytest.raises(ImportError, match=r"needs lightning, which is not installed; pip install 'bnkit\[lightning\]'"):
        import bnkit.integrations.lightning  # noqa: F401
