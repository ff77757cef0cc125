"""A Ray cluster of several machines, each of them a process of this one; ``test_ray_cluster`` starts it.

It is a process of its own: what Ray changes in a process that starts it is nothing for other tests.

    python -m tests.experiments.ray_cluster_script FOLDER

prints what came out, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

import bnkit
from bnkit.experiments.callbacks import Callback
from tests.child_processes import run
from tests.experiments import faulty_networks, tiny_experiment

ROOT = Path(__file__).parents[2]


class CountingCallback(Callback):
    """Counts, and at the ``at``-th epoch does something to the cluster, or to this process."""

    def __init__(self, at=None, deed=None):
        self.trained, self.notes, self._at, self._deed = Counter(), [], at, deed

    def epoch_done(self, run, epoch):
        self.trained[run.number, epoch.epoch] += 1
        if self._at is not None and self.trained.total() == self._at:
            self._deed()

    def note(self, message):
        self.notes.append(message)


def compare(folder, observer, networks=None, **options):
    settings = {**tiny_experiment.EXPERIMENT, "seeds": 8, **options}
    return bnkit.compare(
        networks or tiny_experiment.NETWORKS, tiny_experiment.data(), **settings, out=folder, observer=observer
    )


def main() -> None:
    folder = Path(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray_options = {"engine": "ray", "address": cluster.address}
    found = {}

    # A machine is lost in the middle, another one joins.
    def lose():
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)

    watch = CountingCallback(30, lose)
    comparison = compare(folder / "ray", watch, **ray_options)
    here = compare(folder / "here", CountingCallback(), threads=1)
    found["equal"] = tiny_experiment.figures(comparison) == tiny_experiment.figures(here)
    found["once"] = sorted(set(watch.trained.values())) == [1]
    found["runs"] = len({run for run, _ in watch.trained})

    # The driver is killed, and called again.
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.experiments.ray_cluster_script import CountingCallback, compare\n"
        "watch = CountingCallback(30, lambda: os.kill(os.getpid(), 9))\n"
        "compare(Path(sys.argv[1]), watch, engine='ray', address=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, folder / "driver", cluster.address]
    done = run(command, cwd=ROOT)
    found["killed"] = done.returncode
    watch = CountingCallback()
    found["equal after a kill"] = tiny_experiment.figures(
        compare(folder / "driver", watch, **ray_options)
    ) == tiny_experiment.figures(here)
    found["left after a kill"] = watch.trained.total()

    # A network that ends its process.
    networks = {"no_batch_norm": tiny_experiment.plain, "crashes": faulty_networks.faulty(faulty_networks.crashes)}
    comparison = compare(folder / "crash", CountingCallback(), networks, seeds=2, epochs=1, **ray_options)
    statuses = Counter((run.network.key, str(comparison.records[run.run_id].status)) for run in comparison.plan)
    found["statuses"] = {" ".join(key): count for key, count in sorted(statuses.items())}

    # A network that never ends; and TensorBoard's files come back from where a run was trained.
    networks = {"no_batch_norm": tiny_experiment.plain, "hangs": faulty_networks.faulty(faulty_networks.hangs)}
    comparison = compare(
        folder / "late",
        CountingCallback(),
        networks,
        seeds=1,
        epochs=1,
        run_timeout=30,
        tensorboard=True,
        **ray_options,
    )
    records = {run: comparison.records[run.run_id] for run in comparison.plan}
    statuses = Counter((run.network.key, str(record.status)) for run, record in records.items())
    found["late"] = {" ".join(key): count for key, count in sorted(statuses.items())}
    found["why late"] = sorted({record.traceback for record in records.values() if record.traceback})
    found["event files"] = len(list((folder / "late" / "tensorboard").glob("*-no_batch_norm-*/events*")))
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # the processes of the cluster end with this one


if __name__ == "__main__":
    main()
