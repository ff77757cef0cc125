"""The main job as a function. Loads torch only when something is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.errors import RecordError, SettingsError
from bnkit.experiments.experiment import GIVEN, Experiment, Settled, experiment_from
from bnkit.experiments.folder import Folder
from bnkit.experiments.observer import Observer, Observers
from bnkit.experiments.plan import Plan
from bnkit.experiments.processors import processors, workers_for
from bnkit.report.comparison import Comparison

if TYPE_CHECKING:
    from bnkit.data import DataSet
    from bnkit.experiments.networks import NetworkSource
    from bnkit.experiments.settle import Materials


def compare(
    networks: Mapping[str, Any] | Callable[..., Any] | str | Sequence[str],
    data: object = "digits",
    grid: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    *,
    epochs: int = 10,
    loss: str | Callable[..., Any] = "auto",
    metric: str | Callable[..., Any] = "auto",
    training_step: str | Callable[..., Any] = "default",
    augmentation: str | Callable[..., Any] = "none",
    validation: float = 0.1,
    drop_last: bool = False,
    threads: int = 0,
    name: str = "comparison",
    about: str = "",
    out: str | Path | None = None,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    tensorboard: bool = False,
    workers: int | str | None = None,
    run_timeout: float | None = None,
    engine: str = "local",
    address: str | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Networks trained side by side under the same seeds and the same batches, and what the difference is.

    What is recorded in ``out`` already is not trained again; an interrupted call goes on where it stopped.

    Args:
        networks: Factories by name, as ``{"no_batch_norm": make_plain, "batch_norm": make_with}``: each is called for
            every run, without arguments or with those of ``activation``, ``depth``, ``width`` and ``dropout`` that it names, and
            returns a new ``nn.Module`` that maps (N, *) inputs to (N, classes) scores, or to outputs of the targets'
            shape. Or one such factory, of a network with or without batch norm: bnkit takes it out, or puts it in, for the
            other arm (``bnkit.remove``, ``bnkit.add``). Or the name, or names, of networks that bnkit knows, each then with
            and without batch norm.
        data: The name of a data set, the path of an ``.npz`` file or of a folder of images, ``file.py:factory``, or
            ``((train_inputs, train_targets), (test_inputs, test_targets))``, tensors: (N, *), uint8 or floating, and
            (N,), integers: classes, or (N, values), floating: a regression; or two Datasets of (input, target), which
            are told from others by their lengths and by the mean and deviation of their inputs alone.
        grid: The values of each setting, as ``{"lr": [0.01, 0.1]}``; a key left out has PyTorch's or a common default.
        seeds: How many (0 to n - 1), or which.
        epochs: How often each run goes through the training data.
        loss: ``loss(outputs, targets)`` returns the mean loss of a batch, 0-dimensional; or the name of a loss of
            ``torch.nn.functional``. "auto": "cross_entropy" for class numbers, "mse_loss" for floating targets.
        metric: ``metric(outputs, targets)`` of a whole part returns the number that networks are judged by, in place of
            accuracy: more is better, unless it has an attribute ``higher_is_better`` that is False. Or "r2_score"
            ("auto" for floating targets), "mean_absolute_error", "mean_squared_error".
        training_step: ``training_step(model, optimizer, loss, inputs, targets)`` takes a step of the optimizer and
            returns the loss and the outputs.
        augmentation: ``augmentation(inputs, targets)`` of every training batch returns both; what it draws from torch's
            global generator is the same for every network. Or "crop_and_flip".
        validation: The share of the training data on which learning rates are chosen; 0 for none.
        drop_last: Leave out the short last batch of each epoch.
        threads: For each run; 0 for as many as torch uses now, or 1 with ``workers``.
        name: Of the experiment; ``out`` defaults to ``results/<name>``.
        about: What it asks, in a sentence.
        out: The results folder.
        fresh: Delete the runs in ``out`` first.
        keep_checkpoints: Keep the weights after every epoch, as safetensors.
        tensorboard: Write event files into ``<out>/tensorboard`` (needs tensorboardX).
        workers: How many processes train runs at once, or "auto": as many as the processors are for; None trains in this
            process. What is given as an object is sent to them (cloudpickle), and a script has to guard its call by
            ``if __name__ == "__main__":``. A worker that dies costs its run one retry; a second time, the run is failed.
            Figures do not depend on how many there are.
        run_timeout: Seconds after which a run is ended, as failed; trains in one worker if ``workers`` is None.
        engine: "local", or "ray": a Ray cluster (needs ``bnkit[ray]``); ``workers`` is then how many tasks are out at once.
        address: Of the Ray cluster; None for that of ``RAY_ADDRESS``, or else one of this machine alone.
        observer: Told what happens while it runs. With workers its ``model_ready`` and ``epoch_trained`` are not called.

    Returns:
        The comparison; ``print(comparison.answer)`` says what it found.

    Raises:
        BnkitError: Something that was given means nothing here; nothing was trained then, and nothing recorded is lost.
    """
    by_factory = isinstance(networks, Mapping) or callable(networks)
    task = {"loss": loss, "metric": metric, "training_step": training_step, "augmentation": augmentation}
    named = _names_of(networks)
    experiment = experiment_from(
        {
            "name": name,
            "about": about,
            "data": data if isinstance(data, str) else GIVEN,
            "networks": named,
            "grid": dict(grid) if grid is not None else {"lr": [0.01]},
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            "epochs": epochs,
            **{key: value if isinstance(value, str) else GIVEN for key, value in task.items()},
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
        tensorboard=tensorboard,
        workers=workers,
        run_timeout=run_timeout,
        engine=engine,
        address=address,
        observer=observer,
        networks=from_factories(networks, origin=named[0]) if by_factory else None,
        data=None if isinstance(data, str) else data_from(data, "data"),
        functions={key: value for key, value in task.items() if not isinstance(value, str)},
    )


def run_experiment(
    experiment: Experiment,
    out: Path | None = None,
    *,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    tensorboard: bool = False,
    workers: int | str | None = None,
    run_timeout: float | None = None,
    engine: str = "local",
    address: str | None = None,
    observer: Observer | None = None,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
) -> Comparison:
    """``compare`` for an experiment that is written down; ``networks``, ``data``, ``functions`` replace those it names."""
    from bnkit.experiments.engine import train_all
    from bnkit.experiments.parcel import Parcel, WholeParcel
    from bnkit.experiments.settle import settle
    from bnkit.experiments.workers import Workers, refuse_inside_a_worker

    refuse_inside_a_worker()
    _check_workers(workers, run_timeout)
    _check_engine(engine, address, run_timeout, tensorboard=tensorboard)
    out = out if out is not None else default_folder(experiment)
    folder, observer = Folder(out), observer or Observer()
    beside: list[Observer] = []
    if tensorboard:
        from bnkit.report.tensorboard import TensorBoard

        beside = [TensorBoard(folder.path.absolute() / "tensorboard")]
    before = None if fresh else _settled_before(folder)
    threads = threads_with(workers, engine)
    with ExitStack() as stack:
        train: Callable[[], None]
        if engine == "ray":
            from bnkit.experiments.cluster import Cluster

            planned, materials = prepare(experiment, before, networks, data, functions, threads)
            content = WholeParcel.of(planned.experiment, materials).pack()
            most = workers if isinstance(workers, int) else None
            machines = Cluster(address, content, folder, most=most, keep_checkpoints=keep_checkpoints)
            train = partial(stack.enter_context(machines).train_all, planned, observer)
        elif workers is None and run_timeout is None:
            planned, materials = prepare(experiment, before, networks, data, functions)
            told = Observers([*beside, observer])
            train = partial(train_all, planned, materials, folder, told, keep_checkpoints=keep_checkpoints)
        else:
            planned, materials = settle(experiment, networks, data, functions, before, threads)

            crew = stack.enter_context(
                Workers(
                    _count_of_workers(workers or 1, planned, observer),
                    Parcel(planned.experiment, networks, data, functions),
                    folder,
                    timeout=run_timeout,
                    keep_checkpoints=keep_checkpoints,
                    inside=Observers(beside),
                )
            )
            crew.try_out(len(planned) if fresh else _left(planned, out))
            train = partial(crew.train_all, planned, observer)
        _note_threads(planned, before, threads or _threads_here(), out, observer)
        stack.enter_context(folder.writing())
        folder.begin(planned.experiment, fresh=fresh)
        train()
        comparison = Comparison(out)
        comparison._materials = materials
        observer.report_started()
        comparison.write_report()
    return comparison


def threads_with(workers: object, engine: str = "local") -> int:
    """The threads of each run, if nobody says; 0 for as many as torch uses.

    One for any number of workers and machines, so that the figures do not depend on it.
    """
    return 1 if workers is not None or engine != "local" else 0


def _check_workers(workers: object, run_timeout: object) -> None:
    is_count = isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1
    if not (workers is None or workers == "auto" or is_count):
        raise SettingsError(f"workers={workers!r}; expected a whole number above 0, or auto")
    if run_timeout is not None and not (isinstance(run_timeout, (int, float)) and 0 < run_timeout < math.inf):
        raise SettingsError(f"run_timeout={run_timeout!r}; expected seconds, above 0")


def _check_engine(engine: str, address: str | None, run_timeout: float | None, *, tensorboard: bool) -> None:
    if engine not in ("local", "ray"):
        raise SettingsError(f"engine={engine!r}; expected local or ray")
    if engine == "local" and address is not None:
        raise SettingsError(f"address={address!r} with engine local; expected engine ray with it")
    if engine == "ray" and (tensorboard or run_timeout is not None):
        what = "tensorboard" if tensorboard else "run_timeout"
        raise SettingsError(f"{what} with engine ray; expected engine local with it")


def _count_of_workers(asked: int | str, plan: Plan, observer: Observer) -> int:
    """How many workers ``asked`` means for ``plan``, and a note if they ask too much of the machine."""
    import torch

    on_gpus = all(run.settings.device.startswith("cuda") for run in plan)
    threads = plan.runs[0].threads
    count = workers_for(asked, threads, torch.cuda.device_count() if on_gpus else 0)
    if not on_gpus and count * threads > processors():
        observer.note(
            f"{count} workers of {threads} threads each share {processors()} processors; --workers auto takes as many as go"
        )
    return min(count, len(plan))


def _left(plan: Plan, out: Path) -> int:
    """How many runs are not complete, as far as can be told before this process is the only writer."""
    folder = Folder(out)
    return sum(not folder.record(run).is_complete for run in plan)


def _note_threads(plan: Plan, before: Settled | None, usual: int, out: Path, observer: Observer) -> None:
    settled = plan.experiment.settled
    if before is not None and settled is not None and before.threads == settled.threads != usual:
        observer.note(f"{out} was begun with {before.threads} threads, and goes on with them; --fresh begins anew")


def prepare(
    experiment: Experiment,
    before: Settled | None = None,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
    threads: int = 0,
) -> tuple[Plan, Materials]:
    """The plan of ``experiment`` and its materials, each network tried out once. Writes nothing."""
    from bnkit.experiments.settle import settle, try_out

    planned, materials = settle(experiment, networks, data, functions, before, threads)
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


def _names_of(networks: object) -> list[str]:
    """What an experiment calls them. A factory that stands for itself has its own name, or that of what a partial calls."""
    if isinstance(networks, str):
        return [networks]
    if callable(networks):
        inner = getattr(networks, "func", networks)
        return [str(getattr(inner, "__name__", type(inner).__name__))]
    if not isinstance(networks, Iterable):
        raise SettingsError(
            f"networks is a {type(networks).__name__}; expected a dictionary of factories, one factory, or names of networks"
        )
    return list(networks)


def _threads_here() -> int:
    import torch

    return torch.get_num_threads()
