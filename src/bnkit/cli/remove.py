"""``bnkit remove``."""

from __future__ import annotations

from typing import Annotated

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


def remove(
    target: Target,
    shapes: Shapes = None,
    data: Data = None,
    inputs: Inputs = None,
    weights: Weights = None,
    preserve: Annotated[
        bool, Option("--preserve", help="Move statistics, γ and β into the layers, so that the outputs stay the same.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit remove nets.py:net --input 64x3x32x32` removes batch norm from your network, and lists the layers.

    Layers get a bias where batch norm replaced it; activations that were part of a batch norm are kept.

    `bnkit remove nets.py:net --input 64x3x32x32 --weights w.safetensors --preserve --out plain.safetensors` changes a
    trained network, and keeps its outputs the same. An existing file is replaced, and the output says so; a network that
    became worse on the test part of --data is not written without --force.

    Exit status: 0 success, 2 invalid input, or the network cannot be changed.
    """
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.edit.remove import remove as removed

    with command.working("removing batch norm from"):
        model, changes = removed(
            model_target.model, model_target.example, preserve=preserve, include=include, exclude=exclude
        )
    command.finish(
        model_target,
        model,
        changes,
        keeps_outputs=preserve,
        as_json=as_json,
        quiet=quiet,
        loads_into=code_of("remove", include=include, exclude=exclude),
        instead="" if preserve else "--preserve keeps the outputs, ",
    )
