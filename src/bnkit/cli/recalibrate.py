"""``bnkit recalibrate``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from bnkit.cli.target import Debug, Exclude, Include, Json, Out, Quiet, Request, Target, Weights


def recalibrate(
    target: Target,
    data: Annotated[
        str,
        Option(metavar="D", help="The data set whose training part is measured, as `bnkit compare` takes it."),
    ],
    weights: Weights = None,
    batch_size: Annotated[int, Option(metavar="N", help="Examples at a time: as in training.")] = 64,
    sequential: Annotated[
        bool, Option("--sequential", help="Settle layer after layer: the result depends on the data alone.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit recalibrate nets.py:net --data mnist --weights w.safetensors --out new.safetensors` takes the data's statistics.

    Mean and variance of the whole training part, normalised as for a comparison, in place of the moving average. Prints how
    far that was off in every layer, worst first: the means in standard deviations, the variances as a ratio. Nothing but
    the statistics changes: the weights load into the same network.

    A file that is there already is replaced, and the output says so; the one that is read from is refused.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be recalibrated.
    """
    request = Request(target, (), data, weights, out)
    subject = request.subject()
    from bnkit.experiments.subject import InputBatches, training_part
    from bnkit.model.recalibrate import recalibrate as recalibrated
    from bnkit.model.shapes import dtype_of

    with request.working("recalibrating"):
        found = recalibrated(
            subject.model,
            InputBatches(training_part(data), batch_size, dtype_of(subject.model)),
            sequential=sequential,
            include=include,
            exclude=exclude,
        )
    replaced = request.write(subject.model, subject.example)
    if as_json:
        request.print_json(found.to_json(), replaced=replaced)
        return
    kept = [f"{change.site or '(the model)'} kept: {change.detail}" for change in found.kept]
    request.print(None if quiet else found.rows(), [*([] if quiet else kept), found.summary], replaced=replaced)
