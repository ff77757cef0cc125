"""``bnkit fold``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    recalibrate_command,
)
from bnkit.console import stderr_console, stdout_console
from bnkit.errors import SettingsError


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
    """`bnkit fold nets.py:net --input 64x3x32x32 --weights w.safetensors --out net.onnx` folds batch norm for inference.

    Each batch norm is folded into the layer before or after it, or replaced by one scale and shift. Before a file is written,
    the folded network is compared with the original; a difference beyond rounding is an error that names the layer.

    An existing file is replaced, and the output says so. The written file is loaded and run to verify it. A network
    that became worse on the test part of --data is not written without --force.

    `bnkit fold net.pt2 --out folded.pt2` does the same with a program written by torch.export.save for inference. It is run on
    the inputs that it was saved with, or on --input. A file that contains executable code is not loaded.

    Exit status: 0 success, 2 invalid input, or the network cannot be folded.
    """
    if target.endswith(".pt2"):
        refused = {"--data": data, "--inputs": inputs, "--weights": weights, "--force": force or None}
        refused_options = [name for name, value in refused.items() if value is not None]
        if refused_options:
            raise SettingsError(
                f"{refused_options[0]} with the exported program {target}; expected --input or nothing, and --out"
            )
        _fold_program(Path(target), shapes or (), include, exclude, out, as_json=as_json, quiet=quiet)
        return
    command = ModelCommand(target, shapes or (), data, weights, out, inputs, force)
    model_target = command.model_target()
    from bnkit.cli.model_target import stale_statistics
    from bnkit.model.edit.fold import fold as folded

    with command.working("checking"):
        stale = stale_statistics(model_target)
    first = recalibrate_command(target, data, inputs, weights)
    remark = f"fold uses the running statistics, and {stale}; to fold those of the data, first: {first} --out NEW"
    with command.working("folding"):
        model, changes = folded(model_target.model, model_target.example, include=include, exclude=exclude)
    command.finish(
        model_target,
        model,
        changes,
        keeps_outputs=True,
        as_json=as_json,
        quiet=quiet,
        loads_into=code_of("fold", include=include, exclude=exclude),
        warning=remark if stale else "",
    )


def _fold_program(
    path: Path,
    shapes: Sequence[str],
    include: list[str] | None,
    exclude: list[str] | None,
    out: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fold the program in ``path``, print the changes, and write the result."""
    from bnkit.cli.input_shapes import example_of
    from bnkit.model.edit.fold import fold as folded
    from bnkit.model.program_file import load_program
    from bnkit.model.save import check_destination, save

    if out is not None:
        check_destination(out, has_example=True, read_from=[path])
    with stderr_console().status(f"folding {path}"):
        program = load_program(path)
        example = example_of(shapes, program.module()) if shapes else _saved_inputs(program, path)
        changed, changes = folded(program, example, include=include, exclude=exclude)
    replaced = False
    if out is not None:
        with stderr_console().status(f"writing {out}"):
            replaced = save(changed, out, example)
    console = stdout_console()
    if as_json:
        console.print_json(data={**changes.to_json(), "out": None if out is None else str(out), "replaced": replaced})
        return
    if not quiet:
        console.print_table(changes.rows())
        console.print()
    console.print_sentences(changes.summary)
    if out is not None:
        console.print_sentences(f"written: {out}{', replacing the existing file' if replaced else ''}")


def _saved_inputs(program: Any, path: Path) -> Any:
    """The example that a program was saved with, as a tuple or a dictionary."""
    arguments, keywords = program.example_inputs or ((), {})
    if bool(arguments) == bool(keywords):
        raise SettingsError(f"{path} was saved without inputs to run it on; expected --input 64x3x32x32")
    return arguments or keywords
