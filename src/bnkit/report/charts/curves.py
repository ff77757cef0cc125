"""Curves over the epochs as plain data, for any library that draws them. Needs neither torch nor a plotting library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from bnkit.experiments.plan import Plan, Run
from bnkit.experiments.records.run_epochs_file import Record
from bnkit.report.results_of_plan import Results

# Okabe & Ito (2008), "Color Universal Design": told apart also by the colour-blind.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Curve:
    """One figure of one network over the epochs, summarised over its runs.

    Attributes:
        network: Its key.
        colour: The network's colour in every picture.
        epochs: The epochs for which at least one run has the figure.
        mean, low, high: For each epoch, the mean over the runs, the lowest value and the highest.
        n: For each epoch, the number of runs.
    """

    network: str
    colour: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]


def curves(results: Results, name: str, runs: Iterable[Run]) -> list[Curve]:
    """A curve of ``Epoch``'s field ``name`` for each network in ``runs``; epochs without a value are left out."""
    values: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        of_network = values.setdefault(run.network.key, {})
        for epoch in results.records.get(run.run_id, Record()).epochs:
            value = getattr(epoch, name)
            if value is not None:
                of_network.setdefault(epoch.epoch, []).append(value)
    return [
        _curve(network, colour_of(results.plan, network), values[network])
        for network in results.plan.networks
        if network in values
    ]


def colour_of(plan: Plan, network: str) -> str:
    """The colour of a network in every picture."""
    return colour_among(plan.networks, network)


def colour_among(networks: Sequence[str], network: str) -> str:
    """The colour of one of ``networks`` in a picture of them."""
    return _COLOURS[networks.index(network) % len(_COLOURS)]


def _curve(network: str, colour: str, values: dict[int, list[float]]) -> Curve:
    epochs = sorted(values)
    each = [values[epoch] for epoch in epochs]
    return Curve(
        network,
        colour,
        tuple(epochs),
        tuple(map(fmean, each)),
        tuple(map(min, each)),
        tuple(map(max, each)),
        tuple(map(len, each)),
    )
