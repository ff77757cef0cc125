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
    """`bnkit remove nets.py:net --input 64x3x32x32` makes the twin of your network without batch norm, and lists the places.

    Layers get a bias where batch norm stood in for one; activations that were part of a batch norm are kept.

    `bnkit remove nets.py:net --input 64x3x32x32 --weights w.safetensors --preserve --out plain.safetensors` does it to a
    trained network, which computes the same afterwards. A file that is there already is replaced, and the output says so;
    a network that became worse on the test part of --data is not written without --force.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be changed.
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
        instead="" if preserve else "--preserve keeps the outputs, ",
    )
