"""The order in which workers take runs."""

from __future__ import annotations

from bnkit.experiments.experiment import NetworkIdentity, ResolvedExperiment, parse_experiment
from bnkit.experiments.plan import plan
from bnkit.experiments.running.pool import RunQueue

SHORT, LONG = "no_batch_norm", "batch_norm"


def _runs(seeds, **grid):
    networks = [NetworkIdentity(key=key, identity=key) for key in (SHORT, LONG)]
    settled = ResolvedExperiment(threads=1, device="cpu", data="digest", networks=networks)
    content = {"name": "p", "networks": ["two-cnn"], "grid": {"lr": [0.1, 0.2], **grid}, "seeds": seeds, "epochs": 1}
    return plan(parse_experiment(content, "here").model_copy(update={"settled": settled})).runs


def _all(queue):
    return [queue.pop() for _ in range(len(queue))]


def test_the_plan_is_followed_until_few_are_left():
    runs = _runs(5)
    queue = RunQueue(runs, workers=2)
    queue.record_duration(runs[0], 1.0)
    queue.record_duration(runs[1], 9.0)
    taken = _all(queue)
    assert taken[:12] == list(runs[:12])
    assert [run.network.key for run in taken[12:]] == [LONG] * 4 + [SHORT] * 4
    assert [run.number for run in taken[12:]] == [14, 16, 18, 20, 13, 15, 17, 19]  # among equals as in the plan


def test_runs_of_unknown_duration_come_before_those_known_to_be_short():
    runs = _runs(1, batch_size=[8, 64])
    queue = RunQueue(runs, workers=2)
    queue.record_duration(runs[0], 5.0)
    assert [(run.network.key, run.settings.batch_size) for run in _all(queue)] == [
        (LONG, 8), (SHORT, 64), (LONG, 64), (LONG, 8), (SHORT, 64), (LONG, 64), (SHORT, 8), (SHORT, 8),
    ]  # fmt: skip


def test_a_run_that_diverged_early_does_not_make_its_like_short():
    runs = _runs(1)
    queue = RunQueue(runs, workers=2)
    for seconds in (5.0, 0.1):
        queue.record_duration(runs[1], seconds)
    queue.record_duration(runs[0], 1.0)
    assert [run.network.key for run in _all(queue)] == [LONG, LONG, SHORT, SHORT]


def test_a_run_that_is_tried_again_is_not_lost():
    runs = _runs(20)
    queue = RunQueue(runs, workers=1)
    first = queue.pop()
    queue.put_back(first)
    assert len(queue) == len(runs)
    assert queue.pop() == first
