"""Resolve an experiment from its names alone. Needs no torch, which takes longer to load than everything else together."""

from __future__ import annotations

from bnkit.data.catalog import DATA_SETS
from bnkit.data_digest import reduced_digest
from bnkit.experiments.built_in_networks import ARCHITECTURE_NAMES, ARM_KERNELS, built_in_identity, key_prefix
from bnkit.experiments.experiment import DEFAULT_TASK, Experiment, ResolvedExperiment

# What the task of an experiment may say where it is the default one: the data sets that have a name have classes.
_DEFAULT_TASK = {
    "loss": ("auto", DEFAULT_TASK.loss),
    "metric": ("auto", DEFAULT_TASK.metric),
    "training_step": ("default",),
    "augmentation": ("none",),
}

# The effect of these settings is only known from the built networks.
_TRIED_ON_NETWORKS = ("bn_eps", "bn_momentum")


def resolve_by_name(experiment: Experiment, before: ResolvedExperiment) -> ResolvedExperiment | None:
    """How ``resolve_experiment`` resolves ``experiment``, without loading it; None if the names are not enough.

    They are enough for bnkit's own networks and data sets on a CPU. A user's function or file must be imported, and a GPU must
    be detected.

    Args:
        experiment: The experiment.
        before: How the experiment in the results folder was resolved: its threads and its device are kept.
    """
    is_known = (
        all(network in ARCHITECTURE_NAMES for network in experiment.networks)
        and all(arm in ARM_KERNELS for arm in experiment.arms)
        and experiment.data in DATA_SETS
        and all(getattr(experiment, part) in names for part, names in _DEFAULT_TASK.items())
        and before.device == "cpu"
        and all(device in ("auto", "cpu") for device in experiment.grid.device)
        and all(value == "default" for key in _TRIED_ON_NETWORKS for value in getattr(experiment.grid, key))
    )
    if not is_known:
        return None
    is_alone = len(experiment.networks) == 1
    return ResolvedExperiment(
        threads=experiment.threads or before.threads,
        device=before.device,
        data=reduced_digest(DATA_SETS[experiment.data].digest(), experiment.train_examples, experiment.test_examples),
        networks=tuple(
            built_in_identity(f"{key_prefix(network, is_alone=is_alone)}{arm}", network, arm)
            for network in experiment.networks
            for arm in experiment.arms
        ),
    )
