"""``bnkit.compare``. Loads torch only when something is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnkit.comparison.comparison_result import Comparison
from bnkit.comparison.load_report_early import LoadReportEarly
from bnkit.comparison.progress import shown_progress
from bnkit.comparison.train_until_decided import runs_to_train, train_until_decided
from bnkit.console import warn
from bnkit.errors import RecordError, SettingsError
from bnkit.experiments.callbacks import Callback, CallbackList, ReportStarted
from bnkit.experiments.experiment import (
    DEFAULT_ARMS,
    DEFAULT_EPOCHS,
    DEFAULT_SEEDS,
    Experiment,
    ResolvedExperiment,
    default_experiment,
    parse_experiment,
)
from bnkit.experiments.records.outdated_runs import describe_outdated_runs
from bnkit.experiments.records.results_folder import ResultsFolder, results_path
from bnkit.experiments.running.launch_request import LaunchOptions, Overrides, RunRequest
from bnkit.experiments.running.launcher import launch
from bnkit.experiments.until_settings import FIRST_SEEDS, stopping_rule
from bnkit.import_user_function import PASSED_OBJECT
from bnkit.integrations.loggers import logger_names, loggers

if TYPE_CHECKING:
    from bnkit.data import DataSet
    from bnkit.experiments.networks import NetworkSource


def compare(
    networks: Mapping[str, Any] | Callable[..., Any] | str | Sequence[str],
    data: object = "digits",
    grid: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] | None = None,
    *,
    until: str | None = None,
    margin: float | None = None,
    budget: str | float | None = None,
    max_seeds: int | None = None,
    arms: Sequence[str] | None = None,
    epochs: int = DEFAULT_EPOCHS,
    loss: str | Callable[..., Any] = "auto",
    metric: str | Callable[..., Any] = "auto",
    training_step: str | Callable[..., Any] = "default",
    augmentation: str | Callable[..., Any] = "none",
    validation: float = 0.1,
    drop_last: bool = False,
    observe: int = 0,
    threads: int = 0,
    name: str = "comparison",
    about: str = "",
    out: str | Path | None = None,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    tensorboard: bool = False,
    log: str | Sequence[str] = (),
    workers: int | str | None = None,
    run_timeout: float | None = None,
    engine: str = "local",
    address: str | None = None,
    callbacks: Sequence[Callback | Callable[..., None]] = (),
    progress: bool | None = None,
    observer: Callback | None = None,
) -> Comparison:
    """Train networks with the same seeds and the same batches, and measure the difference.

    Runs that ``out`` already has are not trained again; an interrupted call resumes where it stopped.

    Args:
        networks: Factories by name, as ``{"no_batch_norm": make_plain, "batch_norm": make_with}``. Each is called for every run and
            returns a new ``nn.Module``, which maps (N, *) inputs to (N, classes) scores, or to outputs of the targets' shape. It
            receives those of ``activation``, ``depth``, ``width``, ``dropout`` and ``order`` that it names and the grid sets. Or one
            such factory, of a network with or without batch norm: for the other arm, bnkit removes or adds it (``bnkit.remove``,
            ``bnkit.add``). Or the name, or names, of bnkit's built-in networks, each of them with and without batch norm.
        data: A name ("digits", "mnist", "fashion-mnist", "cifar10"), the path of an ``.npz`` file or of a folder of images,
            ``file.py:factory``, or the two parts, ``(train, test)``. A part is a pair of tensors, ``(inputs, targets)``, or a
            ``Dataset`` of such pairs. Inputs have the shape (N, *), and are uint8, floating, or integers for a lookup. Targets are
            integers of shape (N,), the classes, or floating, which makes the task a regression.
        grid: The values of each setting, as ``{"lr": [0.01, 0.1]}``. Defaults: lr 0.03, 0.1, 0.3 and 1.0, batch size 64; any
            other key has PyTorch's or a common default, or the network's own.
        seeds: The number of seeds (0 to n - 1), or the seeds; None for 5. With ``until``, those of the first round; None for one.
        until: "decided": pairs of seeds are added until each network is better or worse than the other, or the difference is
            less than ``margin``, or ``budget`` or ``max_seeds`` ends. The verdict allows for a look after every round.
            First, the better half of the learning rates by validation keeps getting seeds, until each network has one rate
            left; then pairs of seeds are added at these rates. A later call resumes; the runs do not depend on the workers.
        margin: The largest difference that does not matter, in points of accuracy, or in the unit of another metric. None for
            one point, and for no margin with another metric: then only a gain or a loss is a verdict.
        budget: Seconds, or a text such as "90s", "10m" or "2h". A round that would end after the budget is not begun.
        max_seeds: The largest number of seeds; None for 50.
        arms: The variants to train of a built-in network, or of one factory: "no_batch_norm", "batch_norm", "group_norm",
            "reference", "torch"; None for the first two. With more than two, every pair is compared.
        epochs: How often each run goes through the training data.
        loss: ``loss(outputs, targets)`` returns the mean loss of a batch, 0-dimensional; or the name of a loss of
            ``torch.nn.functional``. "auto": "cross_entropy" for class numbers, "mse_loss" for floating targets.
        metric: ``metric(outputs, targets)`` of a whole part returns the number that networks are judged by, instead of
            accuracy: higher is better, unless its attribute ``higher_is_better`` is False. Or "r2_score"
            ("auto" for floating targets), "mean_absolute_error", "mean_squared_error".
        training_step: ``training_step(model, optimizer, loss, inputs, targets)`` takes a step of the optimizer and
            returns the loss and the outputs.
        augmentation: ``augmentation(inputs, targets)`` returns both for every training batch; its random numbers from torch's
            global generator are the same for every network. Or "crop_and_flip".
        validation: The share of the training data on which learning rates are chosen; 0 for none.
        drop_last: Leave out the short last batch of each epoch. One of a single example is always left out.
        observe: Record the layers' statistics every ``observe`` steps: inputs and outputs of each batch norm, gamma and beta,
            dead units, gradients and updates; drawn in the report and in TensorBoard. 0 for never.
        threads: The threads of each run; 0 for as many as torch uses now, or 1 with ``workers``.
        name: The name of the experiment; ``out`` defaults to ``results/<name>``.
        about: The question of the experiment, in a sentence.
        out: The results folder.
        fresh: Delete the runs in ``out`` first.
        keep_checkpoints: Keep the weights after every epoch, as safetensors.
        tensorboard: The same as "tensorboard" in ``log``.
        log: Loggers: "tensorboard" (event files in ``<out>/tensorboard``), "wandb" (W&B), "mlflow"; each needs the extra of its
            name. W&B and MLflow write into ``out`` unless their own environment says where, and get a run for each run, resumed with
            it; runs that were recorded earlier are logged too.
        workers: The number of processes that train runs at once, or "auto" for a number that fits the processors; None trains in
            this process. Objects among the arguments are sent to the workers (cloudpickle), and a script has to guard its call
            by ``if __name__ == "__main__":``. If a worker dies, its run is retried once, and then counts as failed.
            Figures do not depend on the number of workers.
        run_timeout: Seconds after which a run is stopped and counts as failed; trains in one worker if ``workers`` is None.
        engine: "local", or "ray": a Ray cluster (needs ``bnkit[ray]``); ``workers`` is then the number of tasks at once.
        address: The address of the Ray cluster; None for that of ``RAY_ADDRESS``, or else a cluster on this machine alone.
        callbacks: Callbacks for the events of training, such as a ``bnkit.Callback``. With workers, ``model_ready`` and
            ``epoch_trained`` are not called.
        progress: Show progress on standard error; None shows it on a terminal and in a notebook.
        observer: One more callback.

    Returns:
        The comparison; ``print(comparison.answer)`` says what it found.

    Raises:
        BnkitError: An argument is invalid. Then nothing was trained, and the records are unchanged.
    """
    by_factory = isinstance(networks, Mapping) or callable(networks)
    task = {"loss": loss, "metric": metric, "training_step": training_step, "augmentation": augmentation}
    named = _network_names(networks)
    if arms is not None and isinstance(networks, Mapping):
        raise SettingsError(
            f"arms with a dictionary of networks, which are the arms ({', '.join(map(str, networks))}); expected one of the two"
        )
    rule = stopping_rule(until, margin, budget, max_seeds)
    if seeds is None:
        seeds = DEFAULT_SEEDS if rule is None else FIRST_SEEDS
    arms = DEFAULT_ARMS if arms is None else [arms] if isinstance(arms, str) else list(arms)
    experiment = parse_experiment(
        {
            **default_experiment(name, named, grid),
            "about": about,
            "arms": arms,
            "data": data if isinstance(data, str) else PASSED_OBJECT,
            "seeds": seeds if isinstance(seeds, int) else list(seeds),
            **({} if rule is None else {"until": rule}),
            "epochs": epochs,
            **{key: value if isinstance(value, str) else PASSED_OBJECT for key, value in task.items()},
            "validation": validation,
            "drop_last": drop_last,
            "observe": observe,
            "threads": threads,
        },
        "compare",
    )
    from bnkit.data.user_data import make_data_set
    from bnkit.experiments.code_fingerprint import FingerprintedFunction
    from bnkit.experiments.networks import from_factories

    with shown_progress(progress) as display:
        return run_experiment(
            experiment,
            results_path(out) if out is not None else None,
            fresh=fresh,
            keep_checkpoints=keep_checkpoints,
            tensorboard=tensorboard,
            log=log,
            workers=workers,
            run_timeout=run_timeout,
            engine=engine,
            address=address,
            callbacks=[display, *callbacks],
            observer=observer,
            networks=from_factories(networks, origin=named[0], arms=arms) if by_factory else None,
            data=None if isinstance(data, str) else make_data_set(data, "data"),
            functions={
                # An object that is not callable is refused later, with its own name.
                key: FingerprintedFunction.of(value) if callable(value) else value  # type: ignore[redundant-expr]
                for key, value in task.items()
                if not isinstance(value, str)
            },
        )


def run_experiment(
    experiment: Experiment,
    out: Path | None = None,
    *,
    fresh: bool = False,
    keep_checkpoints: bool = False,
    tensorboard: bool = False,
    log: str | Sequence[str] = (),
    workers: int | str | None = None,
    run_timeout: float | None = None,
    engine: str = "local",
    address: str | None = None,
    callbacks: Sequence[Callback | Callable[..., None]] = (),
    observer: Callback | None = None,
    networks: Mapping[str, NetworkSource] | None = None,
    data: DataSet | None = None,
    functions: Mapping[str, Any] | None = None,
    write_report: bool = True,
    try_training: bool = True,
) -> Comparison:
    """``compare`` for an ``Experiment``; ``networks``, ``data`` and ``functions`` replace those that it names.

    Without ``try_training``, the runs of a network that cannot be trained end as failed, and the others are trained.
    """
    options = LaunchOptions(workers, run_timeout, engine, address, try_training)
    out = out if out is not None else default_folder(experiment)
    folder = ResultsFolder(out)
    names = logger_names([*(["tensorboard"] if tensorboard else []), *([log] if isinstance(log, str) else log)])
    folder.refuse_foreign(*names)
    logging = loggers(names, folder.path.absolute())
    early = [LoadReportEarly()] if write_report else []
    callback = CallbackList(*early, *logging.here, *callbacks, *([] if observer is None else [observer]))
    request = RunRequest(
        experiment,
        Overrides(networks, data, functions),
        folder,
        options,
        resolved_before=None if fresh else _resolved_before(folder),
        keep_checkpoints=keep_checkpoints,
        worker_callbacks=logging.training,
        asked=runs_to_train,
    )
    with closing(logging), launch(request, callback) as prepared:
        if prepared.writes:
            other = None if fresh else describe_outdated_runs(folder.path, prepared.plan)
            if other is not None:
                warn(other)
            with folder.writing():
                folder.begin(prepared.plan.experiment, fresh=fresh)
                planned = train_until_decided(prepared, folder, callback)
                comparison = Comparison.of_plan(folder, planned, prepared.components)
                if write_report:
                    callback(ReportStarted())
                    comparison.refresh_report()
        else:
            prepared.train(prepared.plan)
            comparison = Comparison.of_plan(folder, prepared.plan, prepared.components)
    return comparison


def default_folder(experiment: Experiment) -> Path:
    """``results/<name>``."""
    return Path("results") / experiment.name


def _resolved_before(folder: ResultsFolder) -> ResolvedExperiment | None:
    """The settings that were resolved when ``folder`` was begun; None if it is new or can no longer be read."""
    try:
        return folder.experiment().settled
    except (RecordError, SettingsError):
        return None


def _network_names(networks: object) -> list[str]:
    """The networks' names in an experiment. A single factory has its own name, or that of the function in a partial."""
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
