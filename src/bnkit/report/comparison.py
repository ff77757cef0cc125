"""The main job as a function, and what it returns. Loads torch only when something is trained or loaded."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.errors import RecordError, SettingsError
from bnkit.experiments.experiment import Experiment, Settled, experiment_from
from bnkit.experiments.folder import Folder, columns, rows
from bnkit.experiments.observer import Observer
from bnkit.experiments.plan import Plan, Run, plan
from bnkit.experiments.records import Record
from bnkit.report.answer import Answer
from bnkit.report.tables import further_tables, runs_table

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from bnkit.data import DataSet
    from bnkit.experiments.networks import NetworkSource
    from bnkit.experiments.settle import Materials


class Comparison:
    """What came out of a comparison: a view of its results folder.

    Args:
        path: The folder that ``bnkit compare`` or ``bnkit.compare`` wrote.

    Attributes:
        folder: The folder.
        plan: Its runs.

    Raises:
        RecordError: The folder holds no experiment, or one of a newer bnkit.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = Folder(Path(path))
        self.plan: Plan = plan(self.folder.experiment())
        self._materials: Materials | None = None

    @property
    def records(self) -> dict[str, Record]:
        """What is recorded of each run, by run id."""
        return {run.run_id: self.folder.record(run) for run in self.plan}

    @property
    def answer(self) -> Answer:
        """What batch normalization bought, in words (``print`` it) and figures."""
        return Answer.of(self.plan, self.records)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of ``results.csv``, one for each run and epoch, as they are recorded; a dictionary a row."""
        header = columns(self.plan)
        records = self.records
        return [
            dict(zip(header, row, strict=True))
            for run in self.plan
            for row in rows(run, records[run.run_id], self.plan)
        ]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and a row for each run, best test accuracy first, as text."""
        return runs_table(self.plan, self.records)

    def further_tables(self) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
        """The tables that the experiment asks for with ``show``, by title."""
        return further_tables(self.plan, self.records)

    def data_frame(self) -> pandas.DataFrame:
        """``rows`` as a pandas data frame.

        Raises:
            SettingsError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SettingsError(
                "a data frame needs pandas, which is not installed; pip install 'bnkit[frame]'"
            ) from error
        return pandas.DataFrame(self.rows, columns=list(columns(self.plan)))

    def figures(self) -> dict[str, Any]:
        """Bokeh figures by title, to ``bokeh.plotting.show`` or to embed."""
        from bnkit.report.figures import figures

        return figures(self.plan, self.records)

    def write_report(self) -> Path:
        """Write ``report.html`` into the folder, and return its path."""
        from bnkit.report.page import page

        self.folder.replace(self.folder.report_file, page(self.plan, self.records))
        return self.folder.report_file

    def load(self, run: int | str) -> nn.Module:
        """The trained network of a run, on the CPU, in evaluation mode.

        Args:
            run: Its number in the plan (from 1), or its run id or the beginning of it.

        Raises:
            SettingsError: There is no such run.
            RecordError: It has no weights yet.
            BnkitError: Its network came from a factory that this process does not have.
        """
        from bnkit.experiments.checkpoint import load_weights

        chosen = self._run(run)
        materials = self._obtain_materials()
        data = materials.data
        model = materials.networks[chosen.network.key].build(
            data.input_shape, data.classes, chosen.settings, chosen.seed
        )
        load_weights(self.folder.run_folder(chosen), model)
        return model.eval()

    def _run(self, run: int | str) -> Run:
        found = [
            known
            for known in self.plan
            if known.number == run or (isinstance(run, str) and run and known.run_id.startswith(run))
        ]
        if len(found) != 1:
            raise SettingsError(
                f"run {run!r} names {len(found)} runs; expected a number from 1 to {len(self.plan)}, or a run id"
            )
        return found[0]

    def _obtain_materials(self) -> Materials:
        if self._materials is None:
            from bnkit.experiments.settle import settle

            again, self._materials = settle(self.plan.experiment, before=self.plan.experiment.settled)
            if [run.run_id for run in again] != [run.run_id for run in self.plan]:
                self._materials = None
                raise RecordError(
                    f"the networks or the data of {self.folder.path} are not those of its records any more; train again, "
                    "or go back to the code that it was trained with"
                )
        return self._materials

    def __repr__(self) -> str:
        return f"Comparison({str(self.folder.path)!r}): {len(self.plan)} runs\n\n{self.answer}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def compare(
    networks: Mapping[str, Any] | str | Sequence[str],
    data: object = "digits",
    grid: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    *,
    epochs: int = 10,
    validation: float = 0.1,
    drop_last: bool = False,
    threads: int = 0,
    name: str = "comparison",
    about: str = "",
    out: str | Path | None = None,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Networks trained side by side under the same seeds and the same batches, and what the difference is.

    What is recorded in ``out`` already is not trained again; an interrupted call goes on where it stopped.

    Args:
        networks: Factories by name, as ``{"no_batch_norm": make_plain, "batch_norm": make_with}``: each is called for
            every run, without arguments or with those of ``activation``, ``depth``, ``width`` and ``dropout`` that it names, and
            returns a new ``nn.Module`` that maps (N, *) inputs to (N, classes) scores. Or the name, or names, of
            networks that bnkit knows, each then with and without batch norm.
        data: The name of a data set, ``file.py:factory``, or ``((train_inputs, train_targets), (test_inputs,
            test_targets))``, tensors: (N, *), uint8 or floating, and (N,), integers.
        grid: The values of each setting, as ``{"lr": [0.01, 0.1]}``; a key left out has PyTorch's or a common default.
        seeds: How many (0 to n - 1), or which.
        epochs: How often each run goes through the training data.
        validation: The share of the training data on which learning rates are chosen; 0 for none.
        drop_last: Leave out the short last batch of each epoch.
        threads: For each run; 0 for as many as torch uses now.
        name: Of the experiment; ``out`` defaults to ``results/<name>``.
        about: What it asks, in a sentence.
        out: The results folder.
        fresh: Delete the runs in ``out`` first.
        keep_checkpoints: Keep the weights after every epoch, as safetensors.
        observer: Told what happens while it runs.

    Returns:
        The comparison; ``print(comparison.answer)`` says what it found.

    Raises:
        BnkitError: Something that was given means nothing here; nothing was trained then, and nothing recorded is lost.
    """
    by_factory = isinstance(networks, Mapping)
    named: Sequence[str] = [networks] if isinstance(networks, str) else list(networks)
    experiment = experiment_from(
        {
            "name": name,
            "about": about,
            "data": data if isinstance(data, str) else "given",
            "networks": named,
            "grid": dict(grid) if grid is not None else {"lr": [0.01]},
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "epochs": epochs,
            "validation": validation,
            "drop_last": drop_last,
            "threads": threads,
        },
        "compare",
    )
    from bnkit.experiments.networks import from_factories
    from bnkit.experiments.settle import data_from

    return run_experiment(
        experiment,
        Path(out) if out is not None else None,
        fresh=fresh,
        keep_checkpoints=keep_checkpoints,
        observer=observer,
        networks=from_factories(networks) if by_factory else None,
        data=None if isinstance(data, str) else data_from(data, "data"),
    )


def run_experiment(
    experiment: Experiment,
    out: Path | None = None,
    *,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    observer: Observer | None = None,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
) -> Comparison:
    """``compare`` for an experiment that is written down already; ``networks`` and ``data`` replace those it names."""
    from bnkit.experiments.engine import train_all

    out = out if out is not None else default_folder(experiment)
    folder, observer = Folder(out), observer or Observer()
    before = None if fresh else _settled_before(folder)
    planned, materials = prepare(experiment, before, networks, data)
    settled = planned.experiment.settled
    if before is not None and settled is not None and before.threads == settled.threads != _threads_here():
        observer.note(f"{out} was begun with {before.threads} threads, and goes on with them; --fresh begins anew")
    with folder.writing():
        folder.begin(planned.experiment, fresh=fresh)
        train_all(planned, materials, folder, observer, keep_checkpoints=keep_checkpoints)
        comparison = Comparison(out)
        comparison._materials = materials
        comparison.write_report()
    return comparison


def prepare(
    experiment: Experiment,
    before: Settled | None = None,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
) -> tuple[Plan, Materials]:
    """The plan of ``experiment`` and its materials, each network tried out once. Writes nothing."""
    from bnkit.experiments.settle import settle, try_out

    planned, materials = settle(experiment, networks, data, before)
    try_out(planned, materials)
    return planned, materials


def default_folder(experiment: Experiment) -> Path:
    """``results/<name>``."""
    return Path("results") / experiment.name


def _settled_before(folder: Folder) -> Settled | None:
    """What was settled when ``folder`` was begun; None if it was not, or can no longer be read."""
    try:
        return folder.experiment().settled
    except (RecordError, SettingsError):
        return None


def _threads_here() -> int:
    import torch

    return torch.get_num_threads()
