"""Times of interleaved rounds by value: the clock is not that of the machine, whose load comes and goes."""

from __future__ import annotations

import gc
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import bnkit
from bnkit.model.instrument import summary
from bnkit.model.instrument.interleaved_timing import PairedRounds, median_interval
from bnkit.model.instrument.step_timing import Clock, StepTimes, interleaved

LOADS = (1.0, 4.0, 1.5, 1.0, 9.0, 2.0, 1.0, 3.0, 1.2)


def _times(whole, layer, loads=LOADS):
    """A step of that many milliseconds without load, and one layer in it."""
    return [StepTimes(whole * load / 4, whole * load * 3 / 4, {"a": (0.0, layer * load)}) for load in loads]


def _layer(times):
    return sum(times.layers["a"])


def test_a_load_of_whole_rounds_changes_nothing():
    rounds = PairedRounds({"before": _times(100, 20), "after": _times(80, 5)})
    assert rounds.ms("before") == 100
    assert rounds.ratio("after", "before") == pytest.approx((0.8, 0.8, 0.8))
    assert rounds.shares("before", _layer) == pytest.approx([0.2] * len(LOADS))
    assert rounds.saved_share("after", "before", _layer) == pytest.approx(0.15)


def test_a_load_of_single_calls_widens_the_interval_only():
    loads = list(LOADS)
    loads[0], loads[3] = 20, 0.5
    rounds = PairedRounds({"before": _times(100, 20), "after": _times(80, 5, loads)})
    assert rounds.ratio("after", "before") == pytest.approx((0.8, 0.8, 0.8))  # one value on either side is left out
    loads[1], loads[2] = 20, 0.5
    rounds = PairedRounds({"before": _times(100, 20), "after": _times(80, 5, loads)})
    low, middle, high = rounds.ratio("after", "before")
    assert (low, middle, high) == pytest.approx((0.4, 0.8, 4.0))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1, 6), (1, 5)),  # too few for 95 %
        (range(1, 7), (1, 6)),  # 1 - 2 / 2**6 = 0.969
        (range(1, 9), (1, 8)),
        (range(1, 10), (2, 8)),  # 1 - 2 * (1 + 9) / 2**9 = 0.961
        (range(1, 26), (8, 18)),  # the binomial distribution of 25, to 7 and from 18: 0.957
    ],
)
def test_the_interval_of_a_median_is_that_of_the_binomial_distribution(values, expected):
    assert median_interval(list(values)) == expected


def test_each_round_begins_with_another_function_and_collects_no_garbage():
    called, enabled = [], []

    def function(name):
        def call():
            called.append(name)
            enabled.append(gc.isenabled())
            return StepTimes(len(called), 0)

        return call

    found = interleaved({name: function(name) for name in "abc"}, repetitions=2, warm_up=1)
    assert "".join(called) == "abcbcacab"
    assert [times.whole for times in found["a"]] == [6, 8]
    assert not any(enabled) and gc.isenabled()


@pytest.mark.parametrize(("threads", "function"), [(1, "thread_time"), (2, "perf_counter")])
def test_one_thread_is_timed_by_the_processor(monkeypatch, threads, function):
    """It is the same thread that runs the backward pass."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(time, function, lambda: 7.0)
    clock = Clock(None)
    assert clock.now() == 7.0 and clock.is_processor_time == (threads == 1)
    assert clock.ms(7.0, 7.5) == 500


def test_a_coarse_clock_of_the_processor_is_not_used(monkeypatch):
    """On Windows it moves in steps of 16 ms, so that a layer, or a whole step, would take no time."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(time, "get_clock_info", lambda name: SimpleNamespace(resolution=1 / 64))
    monkeypatch.setattr(time, "perf_counter", lambda: 7.0)
    clock = Clock(None)
    assert clock.now() == 7.0 and not clock.is_processor_time


class FakeClock:
    """Time passes where a layer works, slower in loaded steps, and while nothing is timed."""

    is_processor_time = True

    def __init__(self):
        self.time, self.steps = 0.0, 0

    def now(self):
        return self.time

    def ms(self, start, end):
        return end - start

    def wait(self):
        self.time += 1000
        self.steps += 1

    def work(self, ms):
        # Two waits are before and after the forward pass, and one after the backward pass; a load lasts for ten steps.
        self.time += ms * LOADS[self.steps // 30 % len(LOADS)]


class _Work(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock, forward, backward):
        ctx.clock, ctx.ms = clock, backward
        clock.work(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.work(ctx.ms)
        return gradient.clone(), None, None, None


class Working(nn.Module):
    """Does that many milliseconds of work."""

    def __init__(self, clock, forward, backward):
        super().__init__()
        self.work = (clock, forward, backward)

    def __deepcopy__(self, memo):
        return type(self)(*self.work)

    def forward(self, x):
        return _Work.apply(x, *self.work)


class WorkingNorm(nn.BatchNorm1d):
    """A batch norm of that many milliseconds."""

    def __init__(self, clock, forward, backward):
        super().__init__(2)
        self.work = (clock, forward, backward)

    def __deepcopy__(self, memo):
        return type(self)(*self.work)

    def forward(self, x):
        return _Work.apply(super().forward(x), *self.work)


def test_a_summary_by_value(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(summary, "Clock", lambda device: clock)
    model = nn.Sequential(
        nn.Linear(2, 2),
        Working(clock, 10, 20),
        WorkingNorm(clock, 5, 15),
        Working(clock, 20, 30),
        WorkingNorm(clock, 0, 0),
    )
    costs = bnkit.summary(model, torch.randn(4, 2), repetitions=9)
    first, second = costs
    assert (first.site, second.site) == ("2", "4")
    assert costs.step_ms == pytest.approx(100)  # although most rounds took longer
    assert (first.forward_ms, first.backward_ms, first.share) == pytest.approx((5, 15, 0.2))
    assert first.share_range == pytest.approx((0.2, 0.2)) and costs.share_range == pytest.approx((0.2, 0.2))
    assert (second.share, second.share_range) == (0, (0, 0))
    recompute = {saving.verb: saving for saving in costs.savings}["recompute"]
    assert "95 % interval 20.0% to 20.0%; forward 5 ms, backward 15 ms" in costs.lines[0]
    assert recompute.ms_before in (None, costs.step_ms)
    # What is left without batch norm is what the sum of the layers leaves of a step.
    bare = nn.Sequential(*list(model)[:2], nn.Identity(), model[3], nn.BatchNorm1d(2))
    without = bnkit.summary(bare, torch.randn(4, 2), repetitions=9).step_ms
    assert without == pytest.approx(costs.step_ms * (1 - costs.totals["share"]))
