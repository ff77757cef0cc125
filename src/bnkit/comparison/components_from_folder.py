"""The networks, the data and the task of the runs in a results folder. Loads torch only when a network is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnkit.errors import RecordError
from bnkit.experiments.experiment import Experiment
from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.results_folder import ResultsFolder

if TYPE_CHECKING:
    from bnkit.experiments.resolve_experiment import Components


class StoredComponents:
    """The components of the runs in a folder; if they are not in memory, they are loaded by the names in the experiment.

    Args:
        folder: The folder.
        plan: The runs of the last call.
        components: The components of that call, if they are in memory.
    """

    def __init__(self, folder: ResultsFolder, plan: Plan, components: Components | None = None) -> None:
        self._folder, self._plan = folder, plan
        self._known: dict[str, Components] = {} if components is None else {plan.experiment.to_toml(): components}

    @property
    def of_last_call(self) -> Components | None:
        """The components of the last call, if they are in memory."""
        return self._known.get(self._plan.experiment.to_toml())

    def of(self, run: Run) -> tuple[Components, Run]:
        """The components of ``run``, and the run as its own call planned it.

        Raises:
            BnkitError: A network or the data no longer exist, have changed, or were Python objects.
        """
        experiment, planned = self._plan.experiment, run
        if run.network.key not in self._plan.networks:  # the last call has the network and the data of all other runs
            experiment, planned = self._folder.runs(self._plan).earlier[run.run_id]
        key = experiment.to_toml()
        if key not in self._known:
            self._known[key] = self._load(experiment)
        return self._known[key], planned

    def _load(self, experiment: Experiment) -> Components:
        from bnkit.data.user_data import load_data
        from bnkit.experiments.networks import network_sources
        from bnkit.experiments.resolve_experiment import Components

        settled = experiment.settled
        assert settled is not None  # a folder's experiment is always settled
        sources, data = network_sources(experiment.networks, experiment.arms), load_data(experiment.data)
        data = data.reduced(experiment.train_examples, experiment.test_examples)
        if (tuple(source.identity for source in sources.values()), data.digest) != (settled.networks, settled.data):
            raise RecordError(
                f"the networks or the data of {self._folder.path} have changed since its runs were recorded; train again, "
                "or go back to the code that it was trained with"
            )
        return Components(sources, data)
