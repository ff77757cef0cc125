"""Channels last: the figures of contiguous tensors within rounding, by kernels that are quick there."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import bnkit
from bnkit.experiments.networks import network_sources
from bnkit.experiments.run_settings import Settings
from bnkit.nn import BatchNorm1d, BatchNorm2d


def _built(arm: str, memory_format: str, device: str = "cpu") -> torch.nn.Module:
    settings = Settings(memory_format=memory_format, device=device)
    return network_sources(["two-cnn"], [arm])[arm].build((1, 28, 28), 10, settings, 0)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["no_batch_norm", "batch_norm", "torch"])
def test_weights_and_gradients_are_those_of_contiguous_tensors(arm: str) -> None:
    one, other = _built(arm, "contiguous"), _built(arm, "channels_last")
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 1, 28, 28, generator=generator)
    targets = torch.randint(0, 10, (64,), generator=generator)
    for model in (one, other):
        functional.cross_entropy(model(inputs), targets).backward()
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_images_stay_channels_last_and_are_normalised_by_our_loops() -> None:
    model = _built("batch_norm", "channels_last")
    seen = []
    for layer in model:
        layer.register_forward_hook(lambda layer, _, output: seen.append((type(layer).__name__, output)))
    model(torch.randn(8, 1, 28, 28))
    images = [(name, output) for name, output in seen if output.dim() == 4]
    assert [name for name, _ in images] == ["Conv2d", "ReLU", "MaxPool2d", "BatchNorm2d", "Conv2d", "ReLU", "MaxPool2d"]
    for name, output in images:
        assert output.is_contiguous(memory_format=torch.channels_last), name
    kernels = {type(layer): layer.kernel for layer in model if isinstance(layer, (BatchNorm1d, BatchNorm2d))}
    assert kernels == {BatchNorm2d: "numba", BatchNorm1d: "aten"}


def test_what_is_not_asked_for_or_not_on_a_cpu_keeps_its_kernel() -> None:
    for model in (_built("batch_norm", "contiguous"), _built("batch_norm", "channels_last", "cuda")):
        assert {layer.kernel for layer in model if isinstance(layer, BatchNorm2d)} == {"aten"}
    assert {layer.kernel for layer in _built("reference", "channels_last") if isinstance(layer, BatchNorm2d)} == {
        "reference"
    }


@pytest.mark.slow
def test_a_comparison_takes_it_as_a_setting(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(96, 1, 20, 20, generator=generator), torch.arange(96) % 3

    def compared(memory_format: str, out: str):
        return bnkit.compare(
            ["two-cnn"],
            ((inputs[:64], targets[:64]), (inputs[64:], targets[64:])),
            {"lr": [0.1], "batch_size": [32], "memory_format": [memory_format]},
            seeds=2,
            epochs=2,
            out=tmp_path / out,
            name="format",
        )

    one, other = compared("contiguous", "one"), compared("channels_last", "other")
    assert not {row["run_id"] for row in one.rows} & {row["run_id"] for row in other.rows}
    for ours, theirs in zip(one.rows, other.rows, strict=True):
        assert ours["status"] == theirs["status"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
