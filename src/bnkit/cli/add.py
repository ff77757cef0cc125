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
    code_of,
)

if TYPE_CHECKING:
    from bnkit.model.edit.add_plan import Where


def add(
    target: Target,
    shapes: Shapes = None,
    data: Data = None,
    inputs: Inputs = None,
    weights: Weights = None,
    preserve: Annotated[
        bool, Option("--preserve", help="Set statistics, γ and β from the example, so that the outputs stay the same.")
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
    """`bnkit add nets.py:net --input 64x3x32x32` lists where batch norm can be added to your network, and why not elsewhere.

    It goes between each convolution or linear layer and its activation; not after the output layer, in attention, or
    next to an existing normalisation. All existing modules keep their names.

    `bnkit add nets.py:net --data mnist --inputs normal --weights w.safetensors --preserve --out added.safetensors` changes a
    trained network, and keeps its outputs the same; the weights load into `bnkit.add(net(), example).model`. An existing file is
    replaced, and the output says so; a network that became worse on the test part of --data is not written without --force.

    Exit status: 0 success, 2 invalid input, or the network cannot be changed.
    """
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.edit.add import add as added

    with command.working("adding batch norm to"):
        model, changes = added(
            model_target.model,
            model_target.example,
            preserve=preserve,
            where=cast("Where", where),  # checked by the library
            include=include,
            exclude=exclude,
        )
    command.finish(
        model_target,
        model,
        changes,
        keeps_outputs=preserve,
        as_json=as_json,
        quiet=quiet,
        loads_into=code_of(
            "add", where="" if where == "before_activation" else where, include=include, exclude=exclude
        ),
    )
