"""``bnkit compare``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option, launch

from bnkit.cli.grid import grid_from, option_names
from bnkit.cli.interruption import exit_after_interruption
from bnkit.cli.options import All, Workers, count_of, with_options
from bnkit.console import stderr_console, stdout_console
from bnkit.errors import RecordError, SettingsError
from bnkit.message_parts import plural

if TYPE_CHECKING:
    from bnkit.experiments.experiment import Experiment
    from bnkit.experiments.until_settings import StoppingRule

_DEFAULT = "quickstart"


def _list_recipes(asked: bool) -> None:
    if asked:
        from bnkit.cli.recipes import recipes

        recipes()
        raise Exit


def compare(
    context: Context,
    what: Annotated[
        str,
        Argument(metavar="RECIPE | FILE.toml | file.py:factory", help="What to compare.", show_default=True),
    ] = _DEFAULT,
    data: Annotated[
        str | None,
        Option(
            metavar="D",
            help="The data: a name (`bnkit data` lists them), an .npz file, a folder of images, or file.py:factory. Without it: "
            "digits, or the recipe's.",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="The network: a name or file.py:factory. May be given several times."),
    ] = None,
    grid: Annotated[
        list[str] | None,
        Option(metavar="KEY=V1,V2", help="Values of a setting, such as lr=0.1,0.3. May be given several times."),
    ] = None,
    seeds: Annotated[
        int | None, Option(metavar="N", help="Seeds 0 to N − 1; with --until, those of the first round.")
    ] = None,
    until: Annotated[
        str | None,
        Option(
            metavar="decided", help="Add pairs of seeds until each difference is a gain, a loss or below the margin."
        ),
    ] = None,
    margin: Annotated[
        float | None,
        Option(
            metavar="POINTS",
            help="With --until: the difference that does not matter; by default 1 for accuracy, else none.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        Option(metavar="10m", help="With --until: start only seeds that can finish in this time: 90s, 10m, 2h."),
    ] = None,
    max_seeds: Annotated[
        int | None, Option(metavar="N", help="With --until: the maximum number of seeds; 50 by default.")
    ] = None,
    epochs: Annotated[int | None, Option(metavar="N", help="The number of epochs of each run.")] = None,
    batch_size: Annotated[int | None, Option(metavar="N", help="Short for --grid batch_size=N.")] = None,
    device: Annotated[str | None, Option(metavar="auto|cpu|cuda", help="Short for --grid device=….")] = None,
    loss: Annotated[
        str | None,
        Option(metavar="NAME", help="A loss of torch.nn.functional, such as huber_loss, or file.py:function."),
    ] = None,
    metric: Annotated[
        str | None,
        Option(metavar="NAME", help="The metric: accuracy, r2_score, …, or file.py:function."),
    ] = None,
    training_step: Annotated[str | None, Option(metavar="file.py:function", help="A custom training step.")] = None,
    augmentation: Annotated[
        str | None,
        Option(metavar="NAME", help="The augmentation of training batches: crop_and_flip, or file.py:function."),
    ] = None,
    observe: Annotated[
        int | None,
        Option(
            metavar="N", help="Record statistics of the layers at every Nth step: distributions, gradients, dead units."
        ),
    ] = None,
    keep_checkpoints: Annotated[bool, Option("--keep-checkpoints", help="Keep every epoch's weights.")] = False,
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Write TensorBoard files to DIR/tensorboard; same as --log tensorboard.")
    ] = False,
    log: Annotated[
        list[str] | None,
        Option(
            metavar="NAME,NAME",
            help="Log to tensorboard, wandb, mlflow; in DIR, unless their environment variables set a place.",
        ),
    ] = None,
    workers: Workers = "auto",
    run_timeout: Annotated[
        float | None,
        Option(metavar="S", help="Stop a run after S seconds, and record it as failed.", show_default=False),
    ] = None,
    engine: Annotated[
        str, Option(metavar="local|ray", help="Where runs train: on this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, Option(metavar="A", help="The address of the Ray cluster, such as 10.0.0.1:6379 or auto.")
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            metavar="DIR", help="The results folder; by default results/ and the name of the recipe or of the file."
        ),
    ] = None,
    fresh: Annotated[bool, Option("--fresh", help="Delete the runs in the results folder first.")] = False,
    list_recipes: Annotated[
        bool, Option("--list", callback=_list_recipes, is_eager=True, help="List the recipes, as `bnkit recipes` does.")
    ] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan and train nothing.")] = False,
    show_all: All = False,
    open_report: Annotated[bool, Option("--open", help="Open the report in a browser at the end.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the results as JSON.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="Print only the answer, without progress and table.")] = False,
    verbose: Annotated[bool, Option("-v", "--verbose", help="Print a line for every epoch.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit compare --grid lr=0.1,0.3 --seeds 3` compares a small CNN with and without batch norm on digits.

    Trains networks with and without batch normalization under the same seeds and the same batches, and reports the
    difference with error bars. A second call trains only the missing runs.

    More examples:

    - `bnkit compare lenet-fashion-mnist` repeats the textbook's comparison
    - `bnkit compare --until decided --budget 10m` adds seeds until the difference is decided, and drops poor learning rates
    - `bnkit compare mine.toml --out results/mine --open` runs your own experiment file
    - `bnkit compare net.py:make --data mnist` compares your own network with and without batch norm: the factory returns
      one of the two, and bnkit makes the other
    - `bnkit compare nets.py:networks --data mnist` compares your own networks: the factory returns a dictionary of factories

    Exit status: 0 success, 1 some runs failed, 2 invalid input, 130 interrupted.
    """
    from bnkit.cli.default_data_note import DefaultDataNote
    from bnkit.cli.plan_table import print_plan
    from bnkit.cli.report import print_results
    from bnkit.comparison.compare import default_folder, run_experiment
    from bnkit.comparison.progress import progress_display
    from bnkit.experiments.experiment import DEMONSTRATION_NAMES
    from bnkit.experiments.records.results_folder import ResultsFolder
    from bnkit.experiments.records.run_epochs_file import Status
    from bnkit.experiments.running.launch_request import LaunchOptions, is_nonzero_rank, prepare
    from bnkit.experiments.until_settings import stopping_rule
    from bnkit.integrations.loggers import logger_names

    rule = stopping_rule(until, margin, budget, max_seeds)
    task = {"loss": loss, "metric": metric, "training_step": training_step, "augmentation": augmentation}
    if what in DEMONSTRATION_NAMES:
        from bnkit.cli.demonstration import show_demonstration

        show_demonstration(context, what, as_json=as_json)
        return
    experiment = _experiment(
        what,
        {
            "data": data,
            "networks": network or None,
            "epochs": epochs,
            "observe": observe,
            **_seeds(seeds, rule),
            **task,
        },
        grid or (),
        {"batch_size": batch_size, "device": device},
    )
    folder = out if out is not None else default_folder(experiment)
    is_silent = quiet or as_json or is_nonzero_rank()
    data_note = DefaultDataNote.of(what, experiment, data, is_silent=is_silent)
    if dry_run:
        ResultsFolder(folder).refuse_foreign()
        logger_names(log or ())
        with stderr_console().status("preparing"):
            planned, components = prepare(experiment, LaunchOptions(count_of(workers), run_timeout, engine, address))
        data_note.show()
        print_plan(planned, folder, as_json=as_json, in_memory=components.in_memory)
        return
    try:
        with progress_display(stderr_console(), quiet=is_silent, verbose=verbose, rewrite=with_options) as display:
            comparison = run_experiment(
                experiment,
                folder,
                fresh=fresh,
                keep_checkpoints=keep_checkpoints,
                tensorboard=tensorboard,
                log=log or (),
                workers=count_of(workers),
                run_timeout=run_timeout,
                engine=engine,
                address=address,
                callbacks=[data_note, display],
            )
    except KeyboardInterrupt:
        raise exit_after_interruption(folder) from None
    except RecordError:
        if is_nonzero_rank() and not folder.exists():
            return  # the results are on the machine of process 0, which prints them
        raise
    if is_nonzero_rank():
        return
    if as_json:
        stdout_console().print_json(data=comparison.to_json())
    else:
        print_results(comparison.results, comparison.folder.report_file, show_all=show_all, only_answer=quiet)
    if open_report:
        launch(comparison.folder.report_file.resolve().as_uri())
    records = comparison.records
    failed = [run for run in comparison.plan if records[run.run_id].status is Status.FAILED]
    if failed:
        stderr_console().print_sentences(
            f"{plural(len(failed), 'run')} failed; the traceback of the first is in "
            f"{comparison.folder.record_file(failed[0]).path}"
        )
        raise Exit(1)


def _experiment(
    what: str, changes: dict[str, Any], grid: Sequence[str] = (), short: Mapping[str, object] | None = None
) -> Experiment:
    """The experiment that ``what`` names, with the changes of the options; ``grid`` and ``short`` as for ``grid_from``."""
    from bnkit.experiments.experiment import default_experiment, parse_experiment, read_experiment, read_recipe
    from bnkit.import_user_function import is_factory_name

    if what.endswith(".toml"):
        content, origin = read_experiment(Path(what)), what
    elif is_factory_name(what):
        content, origin = default_experiment(_name_from(what), [what]), what
    elif re.fullmatch(r"[-+]?\d[\d.]*(e[-+]?\d+)?|[-+]?\.\d+(e[-+]?\d+)?", what):
        raise SettingsError(
            f"{what} is not a recipe; expected the values of a key of --grid together, as in lr=0.1,0.3"
        )
    else:
        content, origin = read_recipe(what), f"recipe {what}"
    changes = {key: value for key, value in changes.items() if value is not None}
    short = short or {}
    values = grid_from(grid, short)
    if values:
        before = content.get("grid")
        changes["grid"] = {**(before if isinstance(before, dict) else {}), **values}
    content.pop("settled", None)
    return parse_experiment({**content, **changes}, origin, option_names({**changes, "grid": values}, short))


def _seeds(seeds: int | None, rule: StoppingRule | None) -> dict[str, Any]:
    """The change of the seeds: a stopping rule discards a recipe's seeds, which are for a plan without a rule."""
    from bnkit.experiments.until_settings import FIRST_SEEDS

    return {"seeds": FIRST_SEEDS if seeds is None and rule is not None else seeds, "until": rule}


def _name_from(target: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", Path(target.rpartition(":")[0]).stem).lstrip("-._") or "comparison"
