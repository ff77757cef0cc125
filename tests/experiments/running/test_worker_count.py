from __future__ import annotations

from types import SimpleNamespace

import pytest

from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.running import worker_count
from bnkit.experiments.running.launch_request import LaunchOptions
from bnkit.experiments.running.worker_count import may_need_workers, worker_count_for


def _experiment(**changes):
    content = {"name": "p", "networks": ["two-cnn"], "grid": {"lr": [0.1, 0.2]}, "seeds": 5, "epochs": 10, **changes}
    return parse_experiment(content, "here")


@pytest.mark.parametrize(
    ("options", "changes", "likely"),
    [
        ({}, {}, False),
        ({"workers": 1}, {"seeds": 1}, True),
        ({"run_timeout": 9.0}, {"seeds": 1}, True),
        ({"workers": "auto"}, {}, True),  # 200 epochs
        ({"workers": "auto"}, {"networks": ["file.py:factory"]}, True),
        ({"workers": "auto"}, {"epochs": 1}, False),
        ({"workers": "auto"}, {"threads": 4}, False),
    ],
)
def test_whether_workers_are_likely_is_told_before_torch_is_loaded(monkeypatch, options, changes, likely):
    monkeypatch.setattr(worker_count, "available_cpus", lambda: 4)
    request = SimpleNamespace(options=LaunchOptions(**options), experiment=_experiment(**changes), resolved_before=None)
    assert may_need_workers(request) == likely
    request.resolved_before = object()  # there may be nothing left to train
    assert not may_need_workers(request)


@pytest.mark.parametrize(
    ("options", "runs", "threads", "seconds", "count"),
    [
        ({}, 40, 1, 99.0, 0),
        ({"workers": 3}, 40, 1, 0.1, 3),
        ({"workers": 3}, 2, 1, 0.1, 2),
        ({"workers": "auto"}, 40, 1, 1.0, 4),
        ({"workers": "auto"}, 3, 1, 9.0, 3),
        ({"workers": "auto"}, 40, 2, 1.0, 2),
        ({"workers": "auto"}, 40, 4, 1.0, 0),  # each run takes the machine
        ({"workers": "auto"}, 1, 1, 99.0, 0),
        ({"workers": "auto"}, 40, 1, 0.1, 0),  # over before workers are there
        ({"run_timeout": 9.0}, 40, 1, 0.1, 1),
        ({"run_timeout": 9.0, "workers": "auto"}, 40, 1, 0.1, 4),
    ],
)
def test_workers_where_they_pay(monkeypatch, options, runs, threads, seconds, count):
    monkeypatch.setattr(worker_count, "available_cpus", lambda: 4)

    class Runs(tuple):
        __slots__ = ()
        runs = property(tuple)

    plan = Runs(SimpleNamespace(settings=SimpleNamespace(device="cpu"), threads=threads) for _ in range(runs))
    request = SimpleNamespace(options=LaunchOptions(**options), resolved_before=None)
    components = SimpleNamespace(costs=SimpleNamespace(seconds=lambda run: seconds))
    assert worker_count_for(request, plan, components, [].append) == count
