"""A Ray cluster of several machines gives the figures of one, whatever becomes of a machine or of the driver."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import bnkit
from bnkit.errors import SettingsError
from tests.child_processes import run
from tests.experiments import tiny_experiment

ROOT = Path(__file__).parents[3]


@pytest.mark.torture  # a cluster takes its time to start, and to notice that a machine is gone
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'bnkit[ray]'")
def test_a_machine_is_lost_the_driver_is_killed_a_network_crashes_and_one_hangs(tmp_path):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "tests.experiments.ray_cluster_script", tmp_path]
    done = run(command, seconds=540, cwd=ROOT, environment={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "equal": True,
        "once": True,
        "runs": 32,
        "killed": -9,
        "equal after a kill": True,
        "left after a kill": 96 - 30,
        "statuses": {"crashes failed": 4, "no_batch_norm finished": 4},
        "late": {"hangs failed": 2, "no_batch_norm finished": 2},
        "why late": ["it took longer than the 30 seconds of `run_timeout`"],
        "event files": 2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "engine='slurm'; expected local or ray"),
        ({"address": "auto"}, "address='auto' with engine local; expected engine ray with it"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        bnkit.compare(
            tiny_experiment.NETWORKS,
            tiny_experiment.data(),
            **tiny_experiment.EXPERIMENT,
            out=tmp_path / "r",
            **options,
        )


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"engine ray needs Ray, .*; pip install 'bnkit\[ray\]'"):
        bnkit.compare(
            tiny_experiment.NETWORKS,
            tiny_experiment.data(),
            **tiny_experiment.EXPERIMENT,
            out=tmp_path / "r",
            engine="ray",
        )


_FIRST_RUN = """
import sys
from bnkit.experiments.running.ray_cluster import train_batch
from bnkit.experiments.experiment import parse_experiment
from bnkit.experiments.running.serialization import SelfContainedPayload
from bnkit.experiments.resolve_experiment import resolve_experiment

content = {"name": "x", "data": "digits", "networks": ["mlp"], "seeds": 1, "epochs": 1, "grid": {"lr": [0.1]}}
planned, components = resolve_experiment(parse_experiment(content, "test"), threads=1)
payload = SelfContainedPayload.of(planned.experiment, components).pack(())
loaded = ["torch._dynamo" in sys.modules]
steps = train_batch(payload, list(planned.runs[:1]), False)
assert next(steps) is None  # it begins
print(loaded[0], "torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_what_a_process_loads_once_is_not_in_the_time_of_its_first_run():
    """On a busy machine it takes half a minute, and the first run would be ended by --run-timeout."""
    done = run([sys.executable, "-c", _FIRST_RUN], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False True\n"
