"""``bnkit fold``."""

from __future__ import annotations

from bnkit.cli.target import Data, Debug, Exclude, Include, Json, Out, Quiet, Request, Shapes, Target, Weights


def fold(
    target: Target,
    shapes: Shapes = None,
    data: Data = None,
    weights: Weights = None,
    include: Include = None,
    exclude: Exclude = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit fold nets.py:net --input 64x3x32x32 --weights w.safetensors --out net.onnx` folds batch norm away for inference.

    Each batch norm goes into the layer before or behind it, or becomes one scale and shift. The folded network is run
    against the unfolded one before anything is written; a difference beyond rounding is refused with the name of the place.

    A file that is there already is replaced, and the output says so.

    Exit status: 0 done, 2 something given is wrong, or the network cannot be folded.
    """
    request = Request(target, shapes or (), data, weights, out)
    subject = request.subject()
    from bnkit.model.fold import fold as folded

    with request.working("folding"):
        model, changes = folded(subject.model, subject.example, include=include, exclude=exclude)
    request.finish(model, subject.example, changes, as_json=as_json, quiet=quiet)
