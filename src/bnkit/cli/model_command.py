"""Common parts of the commands that take a model: options that name it, and the output of the changes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from bnkit.console import stderr_console, stdout_console
from bnkit.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from torch import nn

    from bnkit.cli.model_target import ModelTarget
    from bnkit.model.change_list import Changes
    from bnkit.model.verify.accept_changed_model import Outcome
    from bnkit.model.weight_files import LoadedWeights
    from bnkit.text_table import Table

Target = Annotated[
    str,
    Argument(
        metavar="TARGET",
        help="The model: file.py:factory or package.module:factory; the factory returns an nn.Module.",
        show_default=False,
    ),
]
Shapes = Annotated[
    list[str] | None,
    Option(
        "--input",
        metavar="64x3x32x32",
        help="The shape of an example. Several times for several inputs; ids=8x16:int64 names the argument and the dtype.",
    ),
]
Data = Annotated[
    str | None,
    Option(
        metavar="D",
        help="Instead of --input: a data set, as for `bnkit compare`. Its first 64 examples are the example; the result is "
        "evaluated on its test part.",
    ),
]
Inputs = Annotated[
    str | None,
    Option(
        "--inputs",
        metavar="FORM",
        help="The form of the inputs of --data: normal (by mean and deviation of the training part), not_normal, symmetric, "
        "or file.py:function of a batch. Data of a file.py:factory are used unchanged.",
    ),
]
Force = Annotated[bool, Option("--force", help="Write the result even if it is worse than before.")]
Weights = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Weights to load first: safetensors, or a PyTorch file of tensors, also as part of a checkpoint.",
    ),
]
Include = Annotated[
    list[str] | None,
    Option(metavar="P", help="Only layers with this dotted name, such as 'layer1.*'. May be given several times."),
]
Exclude = Annotated[
    list[str] | None, Option(metavar="P", help="Skip layers with this dotted name. May be given several times.")
]
Out = Annotated[
    Path | None,
    Option(metavar="FILE", help="Write the result: .safetensors (weights), .onnx, or .pt2 (an exported program)."),
]
Json = Annotated[bool, Option("--json", help="Print the changes as JSON.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Print only the summary, without the table.")]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class ModelCommand:
    """The arguments of a command: the model, its inputs, and the file for the result.

    Raises:
        BnkitError: If ``out`` cannot be written; checked before the model is loaded.
    """

    target: str
    shapes: Sequence[str] = ()
    data: str | None = None
    weights: Path | None = None
    out: Path | None = None
    inputs: str | None = None
    force: bool = False
    needs_example: bool = True

    def __post_init__(self) -> None:
        has_example = bool(self.shapes) or self.data is not None
        if self.needs_example and not has_example:
            raise SettingsError(
                "the model must run on an example to find its structure, and none was given; expected --input 64x3x32x32 or --data D"
            )
        if self.out is not None:
            from bnkit.model.save import check_destination

            read_from = [Path(self.target.rpartition(":")[0]), *([self.weights] if self.weights is not None else [])]
            check_destination(self.out, has_example=has_example, read_from=read_from)

    def model_target(self) -> ModelTarget:
        """The model and the example."""
        from bnkit.cli.model_target import read_model_target

        with self.working("reading"):
            model_target = read_model_target(self.target, self.shapes, self.data, self.weights, self.inputs)
        print_weights(model_target.weights)
        return model_target

    def twin(self, model_target: ModelTarget) -> nn.Module:
        """A second model like that of ``model_target``: a copy, or another one from the factory if it cannot be copied."""
        from bnkit.cli.model_target import read_model_target
        from bnkit.model.edit.deepcopy_model import deepcopy_model

        try:
            return deepcopy_model(model_target.model)
        except ModelError:
            again = read_model_target(self.target, weights=self.weights).model
            if again is model_target.model:
                raise
            return again

    def working(self, doing: str) -> AbstractContextManager[object]:
        """Show a status message while the command works on the model."""
        return stderr_console().status(f"{doing} {self.target}")

    def finish(
        self,
        model_target: ModelTarget,
        model: nn.Module,
        changes: Changes,
        *,
        keeps_outputs: bool,
        as_json: bool,
        quiet: bool,
        loads_into: str,
        instead: str = "",
        warning: str = "",
    ) -> None:
        """Evaluate the changed model, write it if a file was given, and print the changes.

        Args:
            model_target: The model before the changes.
            model: The changed one.
            changes: The changes.
            loads_into: The code that makes the model which written weights load into, from ``model``.
            keeps_outputs: Whether the outputs should stay the same.
            as_json, quiet: How changes are printed.
            instead: The remedy that would have kept the outputs, if there is one.
            warning: What the user may not expect; empty for nothing.
        """
        outcome = self.outcome_of(model_target, model, keeps_outputs=keeps_outputs)
        replaced = self.write(model, model_target.example, outcome, instead)
        loading = self._loading(model_target.model, model, loads_into)
        if as_json:
            more = {"load": loading, "warning": warning}
            content = {**changes.to_json(), **{key: text for key, text in more.items() if text}}
            self.print_json(content, model_target, outcome, replaced=replaced)
            return
        # With only an example, the summary of changes reports the difference of outputs that should be equal.
        is_shown = outcome is not None and not (keeps_outputs and model_target.data is None)
        lines = [*([outcome.line] if outcome is not None and is_shown else []), changes.summary]
        if warning and not quiet:
            lines.insert(0, f"warning: {warning}")
        if loading and not quiet:
            lines.append(f"to load {self.out}, with the network that {self.target} makes as model: {loading}")
        self.print(None if quiet else changes.rows(), lines, model_target, replaced=replaced)

    def _loading(self, before: nn.Module, after: nn.Module, loads_into: str) -> str:
        """The code that loads the written weights; empty if they load into the network as it is, or no weights were written."""
        if self.out is None or self.out.suffix != ".safetensors" or _keys(before) == _keys(after):
            return ""
        return f"{loads_into}.load_state_dict(safetensors.torch.load_file({str(self.out)!r}))"

    def outcome_of(self, model_target: ModelTarget, model: nn.Module, *, keeps_outputs: bool = False) -> Outcome | None:
        """The effect on the model's outputs; None if there are no inputs to run on."""
        from bnkit.model.verify.accept_changed_model import Outcome

        with self.working("judging"):
            if model_target.data is not None:
                where = f"on the test part of {model_target.data.name}"
                return Outcome.of(
                    model_target.model,
                    model,
                    model_target.data.test_batches(),
                    where=where,
                    keeps_outputs=keeps_outputs,
                )
            if model_target.example is not None:
                return Outcome.of(
                    model_target.model,
                    model,
                    example_inputs=model_target.example,
                    where="on random inputs",
                    keeps_outputs=keeps_outputs,
                )
        return None

    def write(self, model: nn.Module, example: Any, outcome: Outcome | None, instead: str = "") -> bool:
        """Write the changed model, if a file was given, and return whether it replaced a file.

        Raises:
            ModelError: If it is worse than before, and ``force`` is not set.
        """
        if self.out is None:
            return False
        if outcome is not None and not self.force:
            remedy = f"{instead}--force writes {self.out} anyway"
            outcome.refuse_loss(f"the changed {self.target}", f"expected no loss: {remedy}")
        from bnkit.model.save import save

        with self.working(f"writing {self.out}, the changed"):
            return save(model, self.out, example)

    def print_json(
        self, content: Mapping[str, Any], model_target: ModelTarget, outcome: Outcome | None, *, replaced: bool
    ) -> None:
        """Print as JSON: ``content``, the model's data, the effect on its outputs, and the file of the result."""
        more = {
            "given": model_target.given,
            "effect": None if outcome is None else outcome.to_json(),
            "out": None if self.out is None else str(self.out),
            "replaced": replaced,
        }
        loaded = model_target.weights
        if loaded is not None and loaded.line is not None:
            more["weights"] = loaded.line
        stdout_console().print_json(data={**content, **more})

    def print(self, table: Table | None, lines: Iterable[str], model_target: ModelTarget, *, replaced: bool) -> None:
        """Print the model's data, a table, then ``lines`` and the file of the result."""
        console = stdout_console()
        if model_target.given is not None:
            console.print_sentences(f"given: {model_target.given}")
        if table is not None:
            console.print_table(table)
            console.print()
        for line in lines:
            console.print_sentences(line)
        if self.out is not None:
            before = ", replacing the existing file" if replaced else ""
            own_names = "" if model_target.weights is None else model_target.weights.own_names(self.out)
            console.print_sentences(f"written: {self.out}{before}{own_names}")


def recalibrate_command(target: str, data: str | None, inputs: str | None, weights: Path | None) -> str:
    """The command that recalibrates the model of another one."""
    by_option = {"data": data or "D", "inputs": inputs, "weights": weights}
    options = (f"--{name} {shlex.quote(str(value))}" for name, value in by_option.items() if value is not None)
    return f"bnkit recalibrate {shlex.quote(target)} {' '.join(options)}"


def code_of(verb: str, *, has_example: bool = True, **options: Any) -> str:
    """``bnkit.VERB(model, …).model`` as a user would write it; options without a value are left out.

    Examples:
        >>> code_of("remove", include=None, exclude=["head.*"])
        "bnkit.remove(model, example_inputs, exclude=['head.*']).model"
    """
    arguments = "".join(f", {name}={value!r}" for name, value in options.items() if value)
    return f"bnkit.{verb}(model{', example_inputs' if has_example else ''}{arguments}).model"


def _keys(model: nn.Module) -> dict[str, object]:
    return {key: getattr(value, "shape", None) for key, value in model.state_dict().items()}


def print_weights(loaded: LoadedWeights | None) -> None:
    """Print a line on standard error with the place of the weights in the file, if it is not a plain state_dict."""
    if loaded is not None and loaded.line is not None:
        stderr_console().print(f"weights: {loaded.line}", soft_wrap=True, markup=False)
