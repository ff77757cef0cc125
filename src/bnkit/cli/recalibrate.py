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
            help="The data set, as for `bnkit compare`: statistics are from its training part, the evaluation from its test part.",
        ),
    ],
    inputs: Inputs = None,
    weights: Weights = None,
    batch_size: Annotated[int, Option(metavar="N", help="The batch size, as in training.")] = 64,
    sequential: Annotated[
        bool, Option("--sequential", help="Recalibrate layer by layer: the result depends only on the data.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit recalibrate nets.py:net --data data.py:data --weights w.safetensors --out new.safetensors` sets the data's statistics.

    Replaces the moving averages with mean and variance of the whole training part. The model gets the output of `--data
    file.py:factory` unchanged; for other data, `--inputs` names the form that it was trained on. The first line of the output
    says which data the model got. Prints the error of the moving average in every layer, worst first: the means in standard
    deviations, the variances as a ratio. Only the statistics change: the weights load into the same network.

    Accuracy and loss are compared on the test part. A network that became worse is not written without --force. An existing
    file is replaced, and the output says so; overwriting the input file is refused.

    Exit status: 0 success, 2 invalid input, or the network cannot be recalibrated.
    """
    command = ModelCommand(target, (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.statistics.recalibrate import recalibrate as recalibrated

    model = command.twin(model_target)
    assert model_target.data is not None
    with command.working("recalibrating"):
        recalibration = recalibrated(
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
        command.print_json(recalibration.to_json(), model_target, outcome, replaced=replaced)
        return
    kept = [f"{change.site or '(the model)'} kept: {change.detail}" for change in recalibration.kept]
    lines = [*([] if quiet else kept), outcome.line, recalibration.summary]
    command.print(None if quiet else recalibration.rows(), lines, model_target, replaced=replaced)
