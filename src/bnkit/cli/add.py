"""``bnkit add``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from typer import Option

from bnkit.cli.model_command import (
    Data,
    Debug,
    Exclude,
    Force,
    Include,
    Inputs,
    Json,
    ModelCommand,
    Out,
    Quiet,
    Shapes,
    Target,
    Weights,
)

if TYPE_CHECKING:
    from bnkit.model.edit.add import Where


def add(
    target: Target,
    shapes: Shapes = None,
    data: Data = None,
    inputs: Inputs = None,
    weights: Weights = None,
    preserve: Annotated[
        bool, Option("--preserve", help="Take statistics, γ and β from the example, so that the outputs stay the same.")
    ] = False,
    where: Annotated[
        str,
        Option(metavar="PLACE", help="before_activation, after_activation or after_pooling."),
    ] = "before_activation",
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit add nets.py:net --input 64x3x32x32` lists where batch norm goes in your network, and why not elsewhere.

    It goes between each convolution or linear layer and its activation; not after the output layer, in attention, or
    where a normalisation stands already. Everything that was there keeps its name.

    `bnkit add nets.py:net --data mnist --inputs normal --weights w.safetensors --preserve --out added.safetensors` does it to a trained
    network, which computes the same afterwards; those weights load into `bnkit.add(net(), example).model`. A file that is
    there already is replaced, and the output says so; a network that became worse on the test part of --data is not
    written without --force.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be changed.
    """
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.edit.add import add as added

    with command.working("adding batch norm to"):
        model, changes = added(
            model_target.model,
            model_target.example,
            preserve=preserve,
            where=cast("Where", where),  # which is checked there
            include=include,
            exclude=exclude,
        )
    command.finish(model_target, model, changes, keeps_outputs=preserve, as_json=as_json, quiet=quiet)
