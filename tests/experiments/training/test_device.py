"""What a device is asked for during a run; the GPU's part where there is none: by what PyTorch is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from bnkit.experiments.experiment import NetworkIdentity
from bnkit.experiments.networks import is_built_in, network_sources
from bnkit.experiments.training.device import PeakMemory, computing_on, now


def test_a_cpu_is_left_as_it_is() -> None:
    cpu = torch.device("cpu")
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    with computing_on(cpu):
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == before
    assert PeakMemory(cpu).bytes is None
    assert now(cpu) <= now(cpu)


def test_a_gpu_rounds_as_the_cpu_does_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []

    @contextmanager
    def device(index: torch.device) -> Iterator[None]:
        chosen.append(index)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    with computing_on(torch.device("cuda", 0)):
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == before
    assert chosen == [torch.device("cuda", 0)]


def test_only_networks_that_bnkit_knows_are_recorded() -> None:
    for source in network_sources(["two-cnn", "lenet"], ["batch_norm", "no_batch_norm"]).values():
        assert is_built_in(source.identity)
    assert not is_built_in(NetworkIdentity(key="batch_norm", identity="net.py:make#0123456789ab/batch_norm"))
    assert not is_built_in(NetworkIdentity(key="lenet", identity="nets.lenet#0123456789ab/lenet"))
