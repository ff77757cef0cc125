"""Some steps of training by the Trainer of transformers, with each callback and without."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import bnkit
from bnkit.integrations.transformers import FreezeCallback, MonitorCallback, RecalibrateCallback
from tests.integrations.equal_training import same

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")]  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Linear(4, 2))
        self.evaluated = []

    def forward(self, x, labels=None):
        logits = self.net(x)
        if not self.training and labels is not None and self.evaluated is not None:
            self.evaluated.append(logits.detach().clone())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def _inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(48, 3, generator=generator) + 2


INPUTS = _inputs()
LABELS = (INPUTS.sum(1) > 6).long()
DATA = [{"x": x, "labels": label} for x, label in zip(INPUTS, LABELS, strict=True)]


def _train(folder, *callbacks, resume=None, **options):
    torch.manual_seed(1)
    model = Net()
    arguments = {
        "num_train_epochs": 2, "gradient_accumulation_steps": 2, "eval_strategy": "epoch", "save_strategy": "no", **options,
    }  # fmt: skip
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder), use_cpu=True, per_device_train_batch_size=8, per_device_eval_batch_size=16, report_to="none",
            disable_tqdm=True, learning_rate=0.01, **arguments,
        ),
        train_dataset=DATA,
        eval_dataset=DATA,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    state = {
        "model": model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    return model, state


class _Copies(TrainerCallback):
    """The state of the model at the end of each epoch, before it is evaluated."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, args, state, control, **kwargs):
        self.states.append({name: value.clone() for name, value in kwargs["model"].state_dict().items()})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    copies = _Copies()
    model, state = _train(tmp_path_factory.mktemp("t"), copies)
    return model, state, copies.states


# What differs is compared with a training that has it too.
VARIANTS = {
    "epoch": {},
    "steps": {"eval_strategy": "steps", "eval_steps": 1},
    "saved": {"save_strategy": "epoch"},
    "best": {"save_strategy": "best", "metric_for_best_model": "loss", "greater_is_better": False},
    "uneven": {"gradient_accumulation_steps": 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_only_looks_changes_nothing_of_the_training(variant, plain, tmp_path):
    options = VARIANTS[variant]
    without = _train(tmp_path / "a", **options)[1] if options else plain[1]
    model, state = _train(tmp_path / "b", MonitorCallback(every=2, share=1.0), RecalibrateCallback(), **options)
    assert same(state, without)
    assert model._forward_pre_hooks == {}


def test_the_monitor_counts_steps_of_the_optimizer_and_knows_the_trainer(tmp_path):
    seen = []
    monitor = MonitorCallback(every=2, share=1.0, on_findings=seen.append)
    _train(tmp_path, monitor)
    assert (monitor.monitor.steps, monitor.monitor.looks) == (6, [2, 4, 6])
    assert ("BN101", "net.0") in {(finding.code, finding.site) for finding in seen[0]}  # a bias before a batch norm


def test_evaluation_sees_the_statistics_of_the_data(plain, tmp_path):
    _, _, states = plain
    callback = RecalibrateCallback(limit=None)
    model, _ = _train(tmp_path, callback)
    expected = []
    for state in states:
        copy = Net()
        copy.load_state_dict(state)
        with bnkit.recalibrated(copy.net.eval(), INPUTS):
            expected.append(copy.net(INPUTS))
    evaluated = torch.cat([logits for logits in model.evaluated if len(logits) == 16])
    assert torch.allclose(evaluated, torch.cat(expected), atol=1e-5)
    assert (callback.recalibration.batches, callback.recalibration.layers[0].count) == (6, 48)


def test_kept_statistics_replace_the_moving_averages(plain, tmp_path):
    model, state = _train(tmp_path, RecalibrateCallback([{"x": INPUTS, "labels": LABELS}], keep=True))
    reference = Net()
    reference.load_state_dict(state["model"])
    bnkit.recalibrate(reference.net, INPUTS)
    assert same(reference.state_dict(), state["model"])
    assert not torch.equal(model.net[1].running_mean, plain[0].net[1].running_mean)
    assert torch.equal(model.net[0].weight, plain[0].net[0].weight)


def test_a_checkpoint_has_the_statistics_of_the_data_and_resumes_as_if_nothing_had_been(tmp_path):
    from safetensors.torch import load_file

    options = {"save_strategy": "epoch"}
    _, whole = _train(tmp_path / "a", RecalibrateCallback(limit=None), **options)
    saved = load_file(tmp_path / "a" / "checkpoint-3" / "model.safetensors")
    reference = Net()
    reference.load_state_dict(saved)
    bnkit.recalibrate(reference.net, INPUTS)
    for name in ("net.1.running_mean", "net.1.running_var"):
        assert torch.allclose(saved[name], reference.state_dict()[name], atol=1e-5)
    shutil.copytree(tmp_path / "a" / "checkpoint-3", tmp_path / "b" / "checkpoint-3")
    resumed = _train(tmp_path / "b", RecalibrateCallback(limit=None), resume=str(tmp_path / "b" / "checkpoint-3"), **options)[1]  # fmt: skip
    assert same(resumed["model"], whole["model"])
    assert same(resumed["optimizer"], whole["optimizer"])


def test_the_best_model_that_is_loaded_at_the_end_keeps_what_was_saved_with_it(tmp_path):
    from safetensors.torch import load_file

    options = {"save_strategy": "best", "metric_for_best_model": "loss", "greater_is_better": False, "load_best_model_at_end": True}  # fmt: skip
    model, state = _train(tmp_path, RecalibrateCallback(limit=None), **options)
    (folder,) = tmp_path.glob("checkpoint-6")
    assert same(dict(state["model"]), load_file(folder / "model.safetensors"))


def test_frozen_layers_hold_still_from_their_epoch_on(plain, tmp_path):
    copies = _Copies()
    model, _ = _train(tmp_path, FreezeCallback(start_epoch=1), copies, RecalibrateCallback())
    first, second = copies.states
    assert same(first, plain[2][0])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[f"net.1.{name}"], second[f"net.1.{name}"])
    assert not torch.equal(first["net.1.weight"], second["net.1.weight"])  # gamma learns
    assert not model.train().net[1].training


@pytest.mark.parametrize("callback", [FreezeCallback(1, include="norm"), RecalibrateCallback(include="norm")])
def test_a_pattern_that_matches_nothing_is_refused_before_the_first_step(callback, tmp_path):
    trainer = Trainer(
        Net(), TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True), train_dataset=DATA, callbacks=[callback],
    )  # fmt: skip
    with pytest.raises(
        bnkit.errors.SettingsError, match="no place matches 'norm'; expected a pattern for one of net.1"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "bnkit.integrations.transformers")
    with pytest.raises(
        ImportError, match=r"needs transformers, which is not installed; pip install 'bnkit\[transformers\]'"
    ):
        import bnkit.integrations.transformers  # noqa: F401
