"""Recorded steps: the figures of steps that are computed one by one, whatever the recorder decides."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bnkit.nn
from bnkit.experiments.training.cuda_graph import GraphedStep
from bnkit.experiments.training.learning_task import training_step


class Tape:
    """Stands for a CUDA graph where there is no GPU: recording leaves no trace, replaying computes on the same inputs."""

    def __init__(self, model: nn.Module, seconds_a_step: float = 1.0, seconds_a_replay: float = 0.1) -> None:
        self.model, self.seconds_a_step, self.seconds_a_replay = model, seconds_a_step, seconds_a_replay
        self.seconds = 0.0
        self.warmed = self.replayed = 0
        self.error: RuntimeError | None = None

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        self.warmed += 1
        yield

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        before = copy.deepcopy(self.model.state_dict())
        with torch.random.fork_rng():
            work()
        self.model.load_state_dict(before)
        if self.error is not None:
            raise self.error
        self.seconds_a_step = self.seconds_a_replay

        def replay() -> None:
            self.replayed += 1
            work()

        return replay

    def now(self) -> float:
        self.seconds += self.seconds_a_step
        return self.seconds


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), bnkit.nn.BatchNorm2d(4, activation="relu"), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    # Every seventh is short, as the last one of an epoch.
    sizes = [5 if step % 7 == 6 else 8 for step in range(steps)]
    return [
        (torch.randn(size, 1, 8, 8, generator=generator), torch.randint(0, 3, (size,), generator=generator))
        for size in sizes
    ]


Outcome = tuple[list[Tensor], dict[str, Tensor]]


def trained(
    model: nn.Module, step: Callable[..., tuple[Tensor, Tensor]], kind: type[torch.optim.Optimizer], steps: int = 50
) -> Outcome:
    optimizer = kind(model.parameters(), lr=0.05)  # type: ignore[call-arg]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.7)
    seen = []
    torch.manual_seed(2)
    for inputs, targets in batches(steps):
        loss, outputs = step(model, optimizer, functional.cross_entropy, inputs, targets)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        seen += [loss.detach().clone(), outputs.detach().clone(), norm]
        schedule.step()
    return seen, model.state_dict()


def assert_same(got: Outcome, expected: Outcome) -> None:
    for one, other in zip(got[0], expected[0], strict=True):
        assert torch.equal(one, other)
    assert got[1].keys() == expected[1].keys()
    for name, value in got[1].items():
        assert torch.equal(value, expected[1][name]), name


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_replayed_steps_have_the_figures_of_steps_one_by_one(kind: type[torch.optim.Optimizer]) -> None:
    model = make()
    tape = Tape(model)
    step = GraphedStep(tape)
    assert_same(trained(model, step, kind), trained(make(), training_step, kind))
    assert step.replays is True
    assert tape.warmed == 3
    # Of 50 batches 7 are short; 3 warm up, 8 are timed one by one.
    assert tape.replayed == 50 - 7 - 3 - 8


@pytest.mark.parametrize("seconds_a_replay", [0.96, 1.0, 2.0])
def test_what_is_not_faster_is_dropped(seconds_a_replay: float) -> None:
    model = make()
    tape = Tape(model, seconds_a_replay=seconds_a_replay)
    step = GraphedStep(tape)
    assert_same(trained(model, step, torch.optim.SGD), trained(make(), training_step, torch.optim.SGD))
    assert step.replays is False
    assert not step.reason
    assert tape.replayed == 8


def test_what_cannot_be_recorded_is_computed_step_by_step() -> None:
    model = make()
    tape = Tape(model)
    tape.error = RuntimeError("operation not permitted when stream is capturing")
    step = GraphedStep(tape)
    assert_same(trained(model, step, torch.optim.SGD), trained(make(), training_step, torch.optim.SGD))
    assert step.replays is False
    assert "not permitted" in step.reason
    assert tape.replayed == 0


def test_nothing_is_decided_before_enough_steps() -> None:
    model = make()
    step = GraphedStep(Tape(model))
    assert_same(
        trained(model, step, torch.optim.SGD, steps=9), trained(make(), training_step, torch.optim.SGD, steps=9)
    )
    assert step.replays is None


def test_a_recording_reads_every_batch_anew() -> None:
    """The test that the tests above can fail: a recording that kept its first batch would show."""
    model = make()
    tape = Tape(model)
    step = GraphedStep(tape)
    outcome = trained(model, step, torch.optim.SGD)
    losses = torch.stack(outcome[0][0::3])
    assert len(losses.unique()) == len(losses)


def test_what_a_step_returns_keeps_no_graph_alive():
    """Autograd's nodes would stay on the stream of the warm-up, and PyTorch warn of it."""
    model = make()
    step, optimizer = GraphedStep(Tape(model)), torch.optim.SGD(model.parameters(), 0.1)
    taken = [step(model, optimizer, functional.cross_entropy, *batch) for batch in batches(24)]
    assert step.replays
    assert not any(tensor.requires_grad for pair in taken for tensor in pair)
