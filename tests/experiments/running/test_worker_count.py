from __future__ import annotations

import pytest

from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.running import worker_count
from bnkit.experiments.running.worker_count import available_cpus, min_worker_count


def _experiment(**changes):
    content = {"name": "p", "networks": ["two-cnn"], "grid": {"lr": [0.1, 0.2]}, "seeds": 3, "epochs": 1, **changes}
    return parse_experiment(content, "here")


@pytest.mark.parametrize(
    ("asked", "changes", "networks", "count"),
    [
        (2, {}, None, 2),
        (99, {}, None, 3 * 2 * 2),  # with and without batch norm
        (99, {"networks": ["file.py:factory"]}, None, 3 * 2),  # at least one
        (99, {"arms": ["torch"]}, None, 3 * 2),
        (99, {"grid": {"lr": [0.1, 0.1], "batch_size": [8, 9]}, "seeds": [4]}, None, 2 * 2),
        (99, {}, 5, 3 * 2 * 5),
        ("auto", {"seeds": 99}, None, available_cpus()),
    ],
)
def test_no_more_workers_than_runs(monkeypatch, tmp_path, asked, changes, networks, count):
    monkeypatch.setattr(worker_count, "_NVIDIA", tmp_path / "absent")
    assert min_worker_count(asked, _experiment(**changes), 1, networks) == count


def test_where_there_may_be_gpus_one_is_sure(monkeypatch, tmp_path):
    monkeypatch.setattr(worker_count, "_NVIDIA", tmp_path)
    assert min_worker_count("auto", _experiment(), 1) == 1
    assert min_worker_count(2, _experiment(), 1) == 2
    on_cpu = _experiment(grid={"lr": 0.1, "device": "cpu"}, seeds=99)
    assert min_worker_count("auto", on_cpu, 1) == available_cpus()
