"""``bnkit summary``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from bnkit.cli.model_command import Debug, Inputs, ModelCommand, Quiet, Shapes, Target, Weights
from bnkit.console import stdout_console


def summary(
    target: Target,
    shapes: Shapes = None,
    data: Annotated[
        str | None,
        Option(
            metavar="D",
            help="Instead of --input: a data set, as for `bnkit compare`. Its first 64 examples are the batch.",
        ),
    ] = None,
    inputs: Inputs = None,
    weights: Weights = None,
    repetitions: Annotated[int, Option(metavar="N", help="The number of timed rounds, after 2 warm-up rounds.")] = 9,
    as_json: Annotated[bool, Option("--json", help="Print the figures as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """`bnkit summary nets.py:net --input 64x3x32x32` measures the cost of each batch norm of your network, and possible savings.

    A row for each: its kind, its neighbours, the milliseconds of its forward and backward pass in a training step, its share of
    the step, and the bytes that it keeps for the backward pass. Below, the same network with bnkit's layers (`bnkit convert`),
    under `bnkit.recompute`, and with batch norm folded for inference (`bnkit fold`), timed in the same rounds.

    Use a batch of the size that you train with. Shares and ratios have 95 % intervals: more rounds make them narrower on a busy
    machine. The network is not changed.

    Exit status: 0 success, 2 invalid input, or the network cannot be run.
    """
    command = ModelCommand(target, shapes or (), data, weights, None, inputs)
    model_target = command.model_target()
    from bnkit.model.instrument.summary import summary as summarised

    with command.working("measuring"):
        costs = summarised(model_target.model, model_target.example, repetitions=repetitions)
    console = stdout_console()
    if as_json:
        loaded = model_target.weights
        more = {} if loaded is None or loaded.line is None else {"weights": loaded.line}
        console.print_json(data={**costs.to_json(), "given": model_target.given, **more})
        return
    if model_target.given is not None:
        console.print_sentences(f"given: {model_target.given}")
    if not quiet:
        console.print_table(costs.rows())
        console.print()
    for line in costs.lines:
        console.print_sentences(line)
