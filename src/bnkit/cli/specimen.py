"""What ``bnkit check`` looks at: the model that a factory makes, or the trained network of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bnkit.checks.check import check
from bnkit.checks.findings import Findings
from bnkit.checks.fix import mended
from bnkit.checks.registry import rule_called
from bnkit.checks.settings import Settings
from bnkit.data import Parts, prepare
from bnkit.data.custom import data_called
from bnkit.errors import SettingsError
from bnkit.experiments.subject import LabelledBatches, subject
from bnkit.factories import is_target
from bnkit.model.changes import Change
from bnkit.model.saving import check_destination, load_weights, save
from bnkit.model.shapes import dtype_of, example_of
from bnkit.report.comparison import Comparison


@dataclass(frozen=True)
class Specimen:
    """A model and what it is looked at with.

    Attributes:
        model: The model.
        example: A tuple (positional arguments) or a dictionary (keywords) of tensors; None for a batch of the data.
        batches, test_batches: Of the training and the test part of the data; None without data.
        file: The file that makes the model, if one does.
    """

    model: nn.Module
    example: Any
    batches: LabelledBatches | None
    test_batches: LabelledBatches | None
    file: str | None

    def check(self, settings: Settings) -> Findings:
        """What is wrong with it."""
        return check(
            self.model,
            self.batches,
            example_inputs=self.example,
            test_batches=self.test_batches,
            select=settings.select,
            ignore=settings.ignore,
            per_layer_ignores=settings.per_layer_ignores,
        )

    def mended(self, findings: Findings, out: Path, settings: Settings) -> tuple[Specimen, list[Change]]:
        """A copy without what is mechanical of ``findings``, the weights of which are in ``out``; and what was changed.

        What changes the keys of the weights is done where its rule was selected by its code alone.
        """
        named = {name.upper() for text in settings.select or () for name in text.split(",")}
        wanted = [finding for finding in findings if _keeps_keys(finding.code) or finding.code in named]
        changed = mended(self.model, wanted, self.batches)
        if not changed.changes:
            return self, []
        save(changed.model, out)
        return replace(self, model=changed.model), list(changed.changes)


def _keeps_keys(code: str) -> bool:
    return not rule_called(code).fix_changes_keys


def specimen(
    target: str,
    shapes: Sequence[str],
    data: str | None,
    weights: Path | None,
    batch_size: int,
    count: int,
    out: Path | None,
) -> Specimen:
    """What ``target`` stands for.

    Args:
        target: ``file.py:factory``, ``package.module:factory``, or the folder of a run.
        shapes: Of an example.
        data: A data set; of a run, that which it was trained on, if neither is given.
        weights: A file of weights to load.
        batch_size, count: How many examples at a time, and how many batches of the training part.
        out: Where mended weights are to go; None for nowhere.

    Raises:
        BnkitError: One of these is not there, or does not go with the others.
    """
    if shapes and data is not None:
        raise SettingsError(f"--input {shapes[0]} with --data {data}; expected one of the two")
    if count < 1:
        raise SettingsError(f"--batches {count}; expected a whole number above 0")
    file = Path(target.rpartition(":")[0])
    if out is not None:
        _check_out(
            out, [file, *([weights] if weights is not None else [])], None if is_target(target) else Path(target)
        )
    if is_target(target):
        found = subject(target, shapes, None, weights)
        parts = None if data is None else prepare(data_called(data), "normal", 0.0)
        return _with(found.model, found.example, parts, batch_size, count, str(file) if file.is_file() else None)
    comparison, name, epoch = _of_a_run(Path(target))
    run = comparison.run(name)
    model = comparison.build(run) if weights is not None else comparison.load(run, epoch)
    if weights is not None:
        load_weights(model, weights)
    if shapes:
        return _with(model, example_of(shapes, model), None, batch_size, count, None)
    parts = comparison.data(run) if data is None else prepare(data_called(data), run.settings.trainset, run.validation)
    return _with(model, None, parts, batch_size, count, None)


def _check_out(out: Path, read_from: list[Path], run: Path | None) -> None:
    if out.suffix != ".safetensors":
        raise SettingsError(f"--out {out}; expected a file of weights, .safetensors")
    check_destination(out, has_example=False, read_from=[file for file in read_from if file.is_file()])
    # What was recorded stays what it is.
    if run is not None and "runs" in (out.resolve().parent.name, out.resolve().parent.parent.name) and out.exists():
        raise SettingsError(f"--out {out} is part of a comparison's record; expected another file")


def _of_a_run(path: Path) -> tuple[Comparison, str, int | None]:
    """The comparison, the run's id or the beginning of it, and the epoch: ``DIR/runs/3f2a`` or a file of weights in there."""
    epoch = re.fullmatch(r"epoch-(\d{1,9})\.safetensors", path.name)
    folder = path.parent if epoch is not None or path.name == "weights.safetensors" else path
    if folder.parent.name != "runs" or not folder.parent.is_dir():
        raise SettingsError(
            f"{str(path)!r} is neither a factory nor the folder of a run; expected path/to/file.py:name, "
            "package.module:name, or DIR/runs/ID of a folder that bnkit compare wrote"
        )
    return Comparison(folder.parent.parent), folder.name, None if epoch is None else int(epoch[1])


def _with(
    model: nn.Module, example: Any, parts: Parts | None, batch_size: int, count: int, file: str | None
) -> Specimen:
    if parts is None:
        return Specimen(model, example, None, None, file)
    training = LabelledBatches(parts.train, batch_size, dtype_of(model), count)
    test = LabelledBatches(parts.test, batch_size, dtype_of(model))
    return Specimen(model, example, training, test, file)
