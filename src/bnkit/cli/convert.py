"""``bnkit convert``."""

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
    from bnkit.model.edit.replace import ReplacementKind


def convert(
    target: Target,
    to: Annotated[str, Option(metavar="KIND", help="bnkit, torch, sync, group_norm or instance_norm.")] = "bnkit",
    shapes: Shapes = None,
    data: Data = None,
    inputs: Inputs = None,
    weights: Weights = None,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit convert nets.py:net --to group_norm` lists the batch norms of your network and their replacements.

    γ, β, running statistics, counters and activations are kept. Only .onnx and .pt2 need an example.

    `bnkit convert nets.py:net --to torch --weights w.safetensors --out torch.safetensors` writes the weights of the
    converted network. An existing file is replaced, and the output says so; a network that became worse on the test part of
    --data is not written without --force.

    Exit status: 0 success, 2 invalid input, or the network cannot be changed.
    """
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force, needs_example=False)
    model_target = command.model_target()
    from bnkit.model.edit.convert import convert as converted

    with command.working("converting"):
        model, changes = converted(
            model_target.model,
            cast("ReplacementKind", to),  # checked by the library
            include=include,
            exclude=exclude,
        )
    command.finish(
        model_target,
        model,
        changes,
        keeps_outputs=to in ("bnkit", "torch", "sync"),
        as_json=as_json,
        quiet=quiet,
        loads_into=code_of("convert", has_example=False, to=to, include=include, exclude=exclude),
    )
