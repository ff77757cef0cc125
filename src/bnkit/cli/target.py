"""What the commands that take a model have in common: how it is named, and how what was done to it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from bnkit.console import messages, results
from bnkit.errors import SettingsError
from bnkit.report.tables import Row, as_rich

if TYPE_CHECKING:
    from torch import nn

    from bnkit.experiments.subject import Subject
    from bnkit.model.changes import Changes

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
        help="In place of --input: a data set, as `bnkit compare` takes it; its first 64 examples, normalised.",
    ),
]
Weights = Annotated[
    Path | None, Option(metavar="FILE", help="Weights to load first: safetensors, or PyTorch's with tensors alone.")
]
Include = Annotated[
    list[str] | None,
    Option(metavar="P", help="Only the layers of this dotted name, as 'layer1.*'. May be given several times."),
]
Exclude = Annotated[
    list[str] | None, Option(metavar="P", help="Not the layers of this dotted name. May be given several times.")
]
Out = Annotated[
    Path | None,
    Option(metavar="FILE", help="Write the result: .safetensors (weights), .onnx, or .pt2 (an exported program)."),
]
Json = Annotated[bool, Option("--json", help="Print the changes as JSON.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="No table, only what it comes to.")]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Request:
    """What a command was given: the model, what goes into it, and where the result goes.

    Raises:
        BnkitError: ``out`` cannot be written; asked before anything is loaded.
    """

    target: str
    shapes: Sequence[str] = ()
    data: str | None = None
    weights: Path | None = None
    out: Path | None = None
    needs_example: bool = True

    def __post_init__(self) -> None:
        has_example = bool(self.shapes) or self.data is not None
        if self.needs_example and not has_example:
            raise SettingsError(
                "the model has to be run to see how it is built, and there is no example; expected --input 64x3x32x32 or --data D"
            )
        if self.out is not None:
            from bnkit.model.saving import check_destination

            read_from = [Path(self.target.rpartition(":")[0]), *([self.weights] if self.weights is not None else [])]
            check_destination(self.out, has_example=has_example, read_from=read_from)

    def subject(self) -> Subject:
        """The model and the example."""
        from bnkit.experiments.subject import subject

        with self.working("reading"):
            return subject(self.target, self.shapes, self.data, self.weights)

    def working(self, doing: str) -> AbstractContextManager[object]:
        """A sign that something is being done to the model."""
        return messages().status(f"{doing} {self.target}")

    def finish(self, model: nn.Module, example: Any, changes: Changes, *, as_json: bool, quiet: bool) -> None:
        """Write the changed model where it was asked to go, and print the changes."""
        replaced = self.write(model, example)
        if as_json:
            self.print_json(changes.to_json(), replaced=replaced)
        else:
            self.print(None if quiet else changes.rows(), [changes.summary], replaced=replaced)

    def write(self, model: nn.Module, example: Any) -> bool:
        """Write the changed model, if that was asked for; whether it replaced a file."""
        if self.out is None:
            return False
        from bnkit.model.saving import save

        with self.working(f"writing {self.out}, the changed"):
            return save(model, self.out, example)

    def print_json(self, content: Mapping[str, Any], *, replaced: bool) -> None:
        """``content`` and where the result is, as JSON."""
        out = None if self.out is None else str(self.out)
        results().print_json(json.dumps({**content, "out": out, "replaced": replaced}))

    def print(self, table: tuple[Row, list[Row]] | None, lines: Iterable[str], *, replaced: bool) -> None:
        """A table, then ``lines`` and where the result is."""
        console = results()
        if table is not None:
            console.print(as_rich(*table))
            console.print()
        for line in lines:
            console.print(line, soft_wrap=not console.is_terminal, markup=False)
        if self.out is not None:
            before = ", in place of what was there" if replaced else ""
            console.print(f"written: {self.out}{before}", soft_wrap=True, markup=False)
