"""``bnkit recalibrate``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from bnkit.cli.model_command import (
    Debug,
    Exclude,
    Force,
    Include,
    Inputs,
    Json,
    ModelCommand,
    Out,
    Quiet,
    Target,
    Weights,
)


def recalibrate(
    target: Target,
    data: Annotated[
        str,
        Option(
            metavar="D",
            help="The data set, as `bnkit compare` takes it: its training part is measured, its test part judges the result.",
        ),
    ],
    inputs: Inputs = None,
    weights: Weights = None,
    batch_size: Annotated[int, Option(metavar="N", help="Examples at a time: as in training.")] = 64,
    sequential: Annotated[
        bool, Option("--sequential", help="Settle layer after layer: the result depends on the data alone.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit recalibrate nets.py:net --data data.py:data --weights w.safetensors --out new.safetensors` takes the data's statistics.

    Mean and variance of the whole training part, in place of the moving average. The model is given what `--data
    file.py:factory` returns as it is; of other data, `--inputs` names the form that it was trained on, and the first line of the
    output says what the model was given. Prints how far the moving average was off in every layer, worst first: the means in
    standard deviations, the variances as a ratio. Nothing but the statistics changes: the weights load into the same network.

    The test part says what that did to accuracy and loss. A network that became worse is not written without --force. A file
    that is there already is replaced, and the output says so; the one that is read from is refused.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be recalibrated.
    """
    command = ModelCommand(target, (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.statistics.recalibrate import recalibrate as recalibrated

    model = command.twin(model_target)
    assert model_target.data is not None
    with command.working("recalibrating"):
        found = recalibrated(
            model,
            model_target.data.training_batches(batch_size),
            sequential=sequential,
            include=include,
            exclude=exclude,
        )
    outcome = command.outcome_of(model_target, model)
    assert outcome is not None
    instead = "data like those of training, in the form that it was trained on; "
    replaced = command.write(model, model_target.example, outcome, instead)
    if as_json:
        command.print_json(found.to_json(), model_target, outcome, replaced=replaced)
        return
    kept = [f"{change.site or '(the model)'} kept: {change.detail}" for change in found.kept]
    lines = [*([] if quiet else kept), outcome.line, found.summary]
    command.print(None if quiet else found.rows(), lines, model_target, replaced=replaced)
