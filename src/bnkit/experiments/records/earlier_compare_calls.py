"""The calls that wrote into a results folder, and the runs of all of them that answer one question. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bnkit.errors import SettingsError
from bnkit.experiments.experiment import (
    Experiment,
    NetworkIdentity,
    ResolvedExperiment,
    parse_experiment,
    read_experiment,
)
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records import atomic_files
from bnkit.experiments.run_settings import Settings
from bnkit.intervals.interval import FEWEST

# The folder of the experiments of all calls, numbered in their order.
CALLS = "calls"
_CALL = re.compile(r"\d{4,9}\.toml")
# The parts of an experiment that bnkit writes, not the user.
_SETTLED = "\n[settled]\n"
_RUN_ID = re.compile(r"[0-9a-f]{12}")
# The values that must be equal for two runs to be compared, in an experiment and in its resolved values.
_IN_EXPERIMENT = ("epochs", "validation", "drop_last", "observe", "landscape", "evaluate_training")
_RESOLVED = ("threads", "processes")


@dataclass(frozen=True)
class FolderRuns:
    """The runs of a folder that answer the question of one call.

    Attributes:
        plan: The runs of that call, then those of earlier ones, numbered on. Its experiment has the seeds, the networks and the
            values of the grid of all of them.
        own: The ids of the runs of that call.
        earlier: The other runs by id, as their call planned them, with its experiment.
        notes: Sentences about the other runs in the folder, and about the number of looks.
        looks: The number of seeds at each call with enough seeds for a verdict, this one included; empty if it was always the
            same.
    """

    plan: Plan
    own: frozenset[str]
    earlier: Mapping[str, tuple[Experiment, Run]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()

    @property
    def own_if_others(self) -> frozenset[str] | None:
        """``own``; None if there are no other runs."""
        return self.own if self.earlier else None


def is_call(path: Path) -> bool:
    """Whether ``path`` is the file of a call in a results folder, ``calls/0002.toml``."""
    return path.parent.name == CALLS and _CALL.fullmatch(path.name) is not None and path.is_file()


def remember(folder: Path, experiment: str, former: Path) -> None:
    """Keep ``experiment``, and the one in the file ``former``, which an earlier version did not keep. Replaces no file."""
    known = [text for _, text in _texts(folder)]
    number = max((int(path.stem) for path in _numbered(folder)), default=0)
    for text in (*(text for _, text in _read([former])), experiment):
        if text not in known:
            known.append(text)
            number += 1
            atomic_files.replace(folder / CALLS / f"{number:04}.toml", text.encode())


def forget_all(folder: Path) -> None:
    """Delete the experiments of all calls; other files are the user's."""
    for path, _ in _texts(folder):
        path.unlink()
    with suppress(OSError):  # it does not exist, or is not empty
        (folder / CALLS).rmdir()


def folder_runs(folder: Path, own: Plan) -> FolderRuns:
    """The runs in ``folder`` that answer the question of ``own``, those of ``own`` first.

    If a rule chose the runs of ``own``, only these count.
    """
    ids = frozenset(run.run_id for run in own)
    further = _recorded(folder) - ids
    if own.experiment.until is not None:
        return FolderRuns(own, ids, notes=(_not_asked_for(len(further)),) if further else ())
    looks = _looks(folder, own.experiment)
    looks_notes = (_looks_note(looks),) if looks else ()
    if not further:
        return FolderRuns(own, ids, notes=looks_notes, looks=looks)
    networks = _Networks(own.experiment)
    earlier: dict[str, tuple[Experiment, Run]] = {}
    runs, reasons = list(own), dict[str, list[str]]()
    for call, experiment in _earlier_calls(folder, own.experiment):
        difference = _difference(own.experiment, experiment)
        taken, others = ({}, ()) if difference else networks.take(experiment)
        if difference or others:
            parts = (_other_networks(own.experiment, experiment, others), difference)
            reasons.setdefault(", ".join(filter(None, parts)), []).append(call)
        for run in plan(experiment) if taken else ():
            if run.network.key in taken and run.run_id in further and run.run_id not in earlier:
                earlier[run.run_id] = (experiment, run)
                runs.append(replace(run, network=taken[run.network.key]))
    left = len(further) - len(earlier)
    notes = (*((_note(left, reasons),) if left else ()), *looks_notes)
    if not earlier:
        return FolderRuns(own, ids, notes=notes, looks=looks)
    numbered = tuple(
        replace(run, number=number, settings=networks.without_ignored(run)) for number, run in enumerate(runs, start=1)
    )
    calls = [own.experiment, *(experiment for experiment, _ in earlier.values())]
    return FolderRuns(Plan(_joined(calls, numbered, networks.ignored), numbered), ids, earlier, notes, looks)


def _recorded(folder: Path) -> set[str]:
    """The ids of the runs that have a record."""
    records = folder.glob("runs/*/record.jsonl")
    return {record.parent.name for record in records if _RUN_ID.fullmatch(record.parent.name)}


def _looks(folder: Path, own: Experiment) -> tuple[int, ...]:
    """The number of seeds at each call that asks the question of ``own``, as in ``FolderRuns``."""
    identities = {network.identity for network in _resolved(own).networks}
    seeds: set[int] = set()
    counts: set[int] = set()
    for experiment in (*(experiment for _, experiment in _calls(folder)), own):
        shared = identities & {network.identity for network in _resolved(experiment).networks}
        if not shared or _difference(own, experiment):
            continue
        if experiment.until is None:
            seeds |= set(experiment.seeds)
        else:
            recorded = _recorded(folder)
            seeds |= {run.seed for run in plan(experiment) if run.run_id in recorded}
            counts |= set(range(FEWEST, len(seeds)))  # its rule looks after every round
        counts.add(len(seeds))
    counted = sorted(count for count in counts if count >= FEWEST)  # with fewer there was no verdict
    return tuple(counted) if len(counted) > 1 else ()


def _looks_note(looks: Sequence[int]) -> str:
    counts = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]}"
    return f"Looked at after {counts} seeds: the intervals allow for that, and are wider than those of a single look."


def _not_asked_for(count: int) -> str:
    return (
        f"The folder holds {count} more run{'' if count == 1 else 's'} of earlier calls, not counted here: the rule that adds "
        "seeds did not ask for them."
    )


class _Networks:
    """The networks of a question: those of one call, and comparable ones of other calls."""

    def __init__(self, own: Experiment) -> None:
        self.known = {network.key: network for network in _resolved(own).networks}
        self.ignored = dict(_resolved(own).ignored)
        self._is_dictionary = _is_dictionary(own)

    def take(self, experiment: Experiment) -> tuple[dict[str, NetworkIdentity], tuple[str, ...]]:
        """The networks of ``experiment`` that are comparable to the known ones, by key, and the keys of the others."""
        both_dictionaries = self._is_dictionary and _is_dictionary(experiment)
        taken, others = {}, []
        for network in _resolved(experiment).networks:
            counterpart = self._find(network, both_dictionaries=both_dictionaries)
            if counterpart is None:
                others.append(network.key)
                continue
            taken[network.key] = self.known[counterpart.key] = counterpart
            ignored = (*self.ignored.get(counterpart.key, ()), *_resolved(experiment).ignored.get(network.key, ()))
            if ignored:
                self.ignored[counterpart.key] = tuple(dict.fromkeys(ignored))
        return taken, tuple(others)

    def _find(self, network: NetworkIdentity, *, both_dictionaries: bool) -> NetworkIdentity | None:
        """``network`` under the key that it has in this question; None if it does not belong to it."""
        identity = network.identity, network.kernel
        same = [known for known in self.known.values() if (known.identity, known.kernel) == identity]
        if same:
            return same[0]
        architecture = network.identity.rpartition("/")[0]
        peers = [known for known in self.known.values() if known.identity.rpartition("/")[0] == architecture]
        if not peers and not both_dictionaries:
            return None
        key = network.key
        if peers:  # with several architectures a key begins with its own
            before, dot, _ = peers[0].key.rpartition(".")
            key = f"{before}{dot}{network.key.rpartition('.')[2]}"
        return None if key in self.known else network.model_copy(update={"key": key})

    def without_ignored(self, run: Run) -> Settings:
        """The settings of ``run``, with None for those that any call knows to have no effect on its network."""
        ignored = self.ignored.get(run.network.key, ())
        return run.settings.model_copy(update=dict.fromkeys(ignored)) if ignored else run.settings


def _is_dictionary(experiment: Experiment) -> bool:
    """Whether its networks are a user's dictionary of factories, which are meant to be compared."""
    return set(experiment.networks) == {network.key for network in _resolved(experiment).networks}


def _resolved(experiment: Experiment) -> ResolvedExperiment:
    assert experiment.settled is not None  # a call's is
    return experiment.settled


def _earlier_calls(folder: Path, own: Experiment) -> Iterator[tuple[str, Experiment]]:
    """The name of the file and the experiment of each other call, the latest first."""
    return reversed([(name, experiment) for name, experiment in _calls(folder) if experiment != own])


def _calls(folder: Path) -> Iterator[tuple[str, Experiment]]:
    """The name of the file and the experiment of each call, the earliest first."""
    for path, _ in _texts(folder):
        with suppress(SettingsError):  # of a newer version
            experiment = parse_experiment(read_experiment(path), str(path))
            if experiment.settled is not None:
                yield f"{CALLS}/{path.name}", experiment


def _texts(folder: Path) -> list[tuple[Path, str]]:
    return list(_read(sorted(_numbered(folder), key=lambda path: int(path.stem))))


def _numbered(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob(f"{CALLS}/*.toml") if _CALL.fullmatch(path.name))


def _read(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """The files written by calls, and their contents."""
    for path in paths:
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            if _SETTLED in text:
                yield path, text


def _difference(own: Experiment, other: Experiment) -> str:
    """The reasons why the runs of ``other`` are not comparable to those of ``own``; empty if they are."""
    now, then = _resolved(own), _resolved(other)
    pairs = [
        *((key, getattr(own, key), getattr(other, key)) for key in _IN_EXPERIMENT),
        *((key, getattr(now, key), getattr(then, key)) for key in _RESOLVED),
    ]
    parts = ["other data"] if now.data != then.data else []
    parts += ["another loss, metric, training step or augmentation"] if now.task != then.task else []
    return ", ".join([*parts, *(f"{key} {there} in place of {here}" for key, here, there in pairs if here != there)])


def _other_networks(own: Experiment, other: Experiment, not_taken: Sequence[str]) -> str:
    """How the networks of ``other`` differ; empty if they do not. ``not_taken``: the keys of those that are not comparable."""
    further = [network for network in other.networks if network not in own.networks]
    if further and not _is_dictionary(other):
        return f"{_named(further)} in place of {', '.join(own.networks)}"
    return f"other code or kernel of {_named(not_taken)}" if not_taken else ""


def _named(networks: Sequence[str]) -> str:
    return f"network{'' if len(networks) == 1 else 's'} {', '.join(networks)}"


def _joined(calls: Sequence[Experiment], runs: Sequence[Run], ignored: Mapping[str, tuple[str, ...]]) -> Experiment:
    """The experiment of the first of ``calls``, with the seeds, the networks and the grid of ``runs``."""
    own = calls[0]
    asked = {key for experiment in calls for key in experiment.grid.explicit_keys}
    values = {
        key: tuple(dict.fromkeys(value for run in runs if (value := getattr(run.settings, key)) is not None))
        for key in Settings.model_fields
    }
    # "auto" may have been another device.
    values = {key: distinct for key, distinct in values.items() if key in asked or len(distinct) > 1}
    networks = dict.fromkeys((*_resolved(own).networks, *(run.network for run in runs)))
    settled = _resolved(own).model_copy(update={"networks": tuple(networks), "ignored": dict(ignored)})
    return own.model_copy(
        update={
            "seeds": tuple(dict.fromkeys((*own.seeds, *(run.seed for run in runs)))),
            "grid": own.grid.model_copy(update=values),
            "settled": settled,
        }
    )


def _note(count: int, reasons: Mapping[str, Sequence[str]]) -> str:
    reasons_text = "; ".join(f"{reason} ({', '.join(calls)})" for reason, calls in reasons.items())
    return (
        f"The folder holds {count} more run{'' if count == 1 else 's'} in answer to another question, not counted here: "
        f"{reasons_text or 'of calls that an earlier version did not keep'}."
    )
