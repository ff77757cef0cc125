"""``bnkit fold``."""

from __future__ import annotations

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


def fold(
    target: Target,
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
    """`bnkit fold nets.py:net --input 64x3x32x32 --weights w.safetensors --out net.onnx` folds batch norm away for inference.

    Each batch norm goes into the layer before or after it, or becomes one scale and shift. The folded network is run
    against the unfolded one before anything is written; a difference beyond rounding is refused with the name of the place.

    A file that is there already is replaced, and the output says so. The file is loaded again and run before it counts as
    written. A network that became worse on the test part of --data is not written without --force.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be folded.
    """
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.model.edit.fold import fold as folded

    with command.working("folding"):
        model, changes = folded(model_target.model, model_target.example, include=include, exclude=exclude)
    command.finish(model_target, model, changes, keeps_outputs=True, as_json=as_json, quiet=quiet)
