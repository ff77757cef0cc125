"""The monitor: when it looks, what it says, and that training is the same with it."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import bnkit
from bnkit.checks import training_monitor as module
from bnkit.checks.training_monitor import Monitor
from bnkit.errors import SettingsError


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by hand."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def _walk(monitor, clock, steps, seconds=1.0, batch=None):
    for _ in range(steps):
        clock.now += seconds
        monitor.step(torch.randn(8, 3) if batch is None else batch)


def test_it_looks_every_so_many_steps(clock):
    monitor = Monitor(_model(), every=10, on_findings=lambda findings: None)
    _walk(monitor, clock, 35)
    assert (monitor.looks, monitor.steps) == ([10, 20, 30], 35)


def test_it_waits_where_looking_takes_long(clock):
    def found(findings):
        pass

    monitor = Monitor(_model(), every=10, share=0.1, on_findings=found)
    real = monitor._check

    def slow():
        clock.now += 3.0
        return real()

    monitor._check = slow
    _walk(monitor, clock, 100)
    # The first cannot be known to be slow. The second is due when 6 s are a tenth of the time, the third when 9 s are.
    assert monitor.looks == [10, 57, 84]
    assert monitor._spent <= 0.1 * clock.now


def test_with_all_the_time_no_check_is_postponed(clock):
    monitor = Monitor(_model(), every=2, share=1.0, on_findings=lambda findings: None)
    monitor._check = lambda: setattr(clock, "now", clock.now + 100.0)  # steps take no time here
    _walk(monitor, clock, 6, seconds=0.0)
    assert monitor.looks == [2, 4, 6]


@pytest.mark.slow
def test_training_is_bit_by_bit_the_same():
    def trained(watched):
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        monitor = Monitor(model, every=2, share=1.0, optimizer=optimizer, on_findings=lambda findings: None)
        draw = torch.Generator().manual_seed(1)
        for _ in range(6):
            inputs = torch.randn(8, 3, generator=draw)
            model(inputs).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if watched:
                monitor.step((inputs, torch.zeros(8, dtype=torch.int64)))
        assert bool(monitor.looks) == watched
        return model.state_dict()

    with_monitor, without = trained(watched=True), trained(watched=False)
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_monitor.items())


def test_a_finding_is_logged_once(clock, caplog):
    monitor = Monitor(_model(), every=1, share=1.0, select=["BN101", "BN111"])
    with caplog.at_level(logging.WARNING, logger="bnkit"):
        _walk(monitor, clock, 2)
        monitor._model[1].momentum = 0.99
        _walk(monitor, clock, 2)
    assert len(caplog.records) == 2
    assert "step 1: warning  BN101 0  its bias is cancelled by 1" in caplog.messages[0]
    assert "step 3: warning  BN111 1  with a momentum of 0.99" in caplog.messages[1]


def test_later_looks_leave_out_what_cannot_change(clock):
    seen = []
    monitor = Monitor(_model(), every=1, share=1.0, on_findings=seen.append, select=["BN101", "BN111"])
    _walk(monitor, clock, 2)
    assert [findings.codes for findings in seen] == [("BN101",), ()]


def test_a_model_that_cannot_be_checked_goes_on_training(clock, caplog):
    monitor = Monitor(_model(), every=1, share=1.0, select="BN101")
    with caplog.at_level(logging.WARNING, logger="bnkit"):
        _walk(monitor, clock, 3, batch=torch.randn(8, 5))
    assert len(caplog.records) == 1 and "step 1: the batch norms could not be checked: " in caplog.messages[0]
    assert (monitor.findings, monitor.looks) == (None, [1, 2, 3])


def test_without_batches_it_looks_at_the_model_alone(clock):
    model = _model()
    model[1].momentum = 0.99
    monitor = bnkit.Monitor(model, every=1, share=1.0, on_findings=lambda findings: None)
    clock.now = 1.0
    assert "BN111" in monitor.step().codes


@pytest.mark.parametrize("arguments", [{"every": 0}, {"batches": 0}, {"share": 0.0}, {"share": 1.5}, {"select": "BN9"}])
def test_invalid_arguments_are_refused(arguments):
    with pytest.raises(SettingsError):
        Monitor(_model(), **arguments)
