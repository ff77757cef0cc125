"""The model that ``bnkit check`` checks: one made by a factory, or the trained network of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from bnkit.checks.check import check
from bnkit.checks.config import CheckConfig
from bnkit.checks.findings_output import Findings
from bnkit.checks.fix_findings import apply_fixes
from bnkit.cli.model_target import ModelTarget, check_inputs, prepare_model_target, read_model_target
from bnkit.comparison.comparison_result import Comparison
from bnkit.errors import SettingsError
from bnkit.experiments.data_for_model import ModelBatches, ModelData, data_of_run, model_data
from bnkit.import_user_function import is_factory_name, what_it_is
from bnkit.message_parts import plural
from bnkit.model.change_list import Change
from bnkit.model.inspect.construction_lines import record_construction
from bnkit.model.save import check_destination, save
from bnkit.model.verify.accept_changed_model import Outcome
from bnkit.model.weight_files import load_weights

# The layers that a message names.
_NAMED = 8


class FixResult(NamedTuple):
    """The result of ``--fix``.

    Attributes:
        specimen: The target with the fixed model.
        changes: The changes; if there are none, no file was written.
        outcome: Their effect on the model's outputs; None if there are no changes, or no inputs to run on.
    """

    check_target: CheckTarget
    changes: list[Change]
    outcome: Outcome | None


@dataclass(frozen=True)
class CheckTarget:
    """A model and the inputs it is checked with.

    Attributes:
        subject: The model, an example of its input, and the data.
        batch_size, count: The batch size, and the number of batches of the training part.
        file: The file that makes the model, if one does.
    """

    model_target: ModelTarget
    batch_size: int
    count: int
    file: str | None = None

    @property
    def batches(self) -> ModelBatches | None:
        """Batches of the training part; None without data."""
        data = self.model_target.data
        return None if data is None else data.training_batches(self.batch_size, self.count)

    @property
    def test_batches(self) -> ModelBatches | None:
        """Batches of the test part; None without data."""
        return None if self.model_target.data is None else self.model_target.data.test_batches(self.batch_size)

    def check(self, settings: CheckConfig) -> Findings:
        """Check the model."""
        return check(
            self.model_target.model,
            self.batches,
            example_inputs=None if self.model_target.data is not None else self.model_target.example,
            test_batches=self.test_batches,
            select=settings.select,
            ignore=settings.ignore,
            per_layer_ignores=settings.per_layer_ignores,
        )

    def apply_fixes(self, findings: Findings, out: Path, settings: CheckConfig, *, force: bool) -> FixResult:
        """Fix a copy of the model where ``findings`` have mechanical fixes, and write its weights to ``out``.

        Raises:
            ModelError: If the result is worse than before on the test part, and ``force`` is not set.
        """
        model, changes = apply_fixes(self.model_target.model, findings, self.batches, select=settings.select)
        if not changes:
            return FixResult(self, [], None)
        outcome = self._outcome(model)
        if outcome is not None and not force:
            outcome.refuse_loss("the fixed model", f"expected no loss: --force writes {out} anyway")
        save(model, out, self.model_target.example)
        return FixResult(replace(self, model_target=replace(self.model_target, model=model)), list(changes), outcome)

    def loading_lines(self, before: nn.Module, out: Path | None) -> Iterator[str]:
        """How to load the fixed weights in ``out``, if they lack parameters of the model as it was ``before``."""
        after = self.model_target.model.state_dict()
        lacking = [key for key in before.state_dict() if key not in after]
        if out is not None and lacking:
            layers = [key.rpartition(".")[0] or "the model" for key in lacking]
            some, others = ", ".join(layers[:_NAMED]), len(layers) - _NAMED
            yield (
                f"to load {out}: build {some}{f' and {others} more' if others > 0 else ''} with bias=False; as it is, the network "
                f"expects {lacking[0]}{', …' if len(lacking) > 1 else ''}, which the file does not hold"
            )

    def _outcome(self, model: nn.Module) -> Outcome | None:
        model_target = self.model_target
        if model_target.data is not None:
            where = f"on the test part of {model_target.data.name}"
            return Outcome.of(model_target.model, model, self.test_batches, where=where)
        if model_target.example is not None:
            return Outcome.of(model_target.model, model, example_inputs=model_target.example, where="on random inputs")
        return None


def read_check_target(
    target: str,
    shapes: Sequence[str],
    data: str | None,
    weights: Path | None,
    batch_size: int,
    count: int,
    out: Path | None,
    inputs: str | None = None,
) -> CheckTarget:
    """Load the model that ``target`` names, and the inputs to check it with.

    Args:
        target: ``file.py:factory``, ``package.module:factory``, or the folder of a run.
        shapes: The shapes of an example.
        data: A data set. For a run, the default is the data set that it was trained on.
        weights: A file of weights to load.
        batch_size, count: The batch size, and the number of batches of the training part.
        out: The file for fixed weights; None if they are not written.
        inputs: The form in which the model gets ``data`` (see ``model_data``); for the data of a run, the form of the run.

    Raises:
        BnkitError: If one of these does not exist, or they contradict each other.
    """
    check_inputs(shapes, data, inputs)
    if count < 1:
        raise SettingsError(f"--batches {count}; expected a whole number above 0")
    file = Path(target.rpartition(":")[0])
    if out is not None:
        _check_out(
            out, [file, *([weights] if weights is not None else [])], None if is_factory_name(target) else Path(target)
        )
    if is_factory_name(target):
        model_target = read_model_target(target, shapes, data, weights, inputs)
        return CheckTarget(model_target, batch_size, count, str(file) if file.is_file() else None)
    comparison, name, epoch = _locate_run(Path(target))
    run = comparison.run(name)
    with record_construction():
        model = comparison.build(run) if weights is not None else comparison.load(run, epoch)
    loaded = None if weights is None else load_weights(model, weights)
    return CheckTarget(
        prepare_model_target(model, shapes, None if shapes else _run_data(comparison, name, data, inputs), loaded),
        batch_size,
        count,
    )


def _run_data(comparison: Comparison, name: str, data: str | None, inputs: str | None) -> ModelData:
    """The data of a run in the form that it was trained on, or ``data`` prepared in the same way."""
    run, known = comparison.run(name), comparison.plan.experiment.data
    if data is not None:
        return model_data(data, inputs, (known, run.settings.trainset))
    if inputs is not None:
        raise SettingsError(
            f"--inputs {inputs} with a run, which records its own form; expected --inputs only with --data"
        )
    return data_of_run(comparison.data(run), known, run.settings.trainset)


def _check_out(out: Path, read_from: list[Path], run: Path | None) -> None:
    if out.suffix != ".safetensors":
        raise SettingsError(f"--out {out}; expected a file of weights, .safetensors")
    check_destination(out, has_example=True, read_from=[file for file in read_from if file.is_file()])
    # Recorded files are not overwritten.
    if run is not None and "runs" in (out.resolve().parent.name, out.resolve().parent.parent.name) and out.exists():
        raise SettingsError(f"--out {out} is part of a comparison's record; expected another file")


def _locate_run(path: Path) -> tuple[Comparison, str, int | None]:
    """The comparison, the run's id or a prefix of it, and the epoch, from ``DIR/runs/3f2a`` or a file of weights in it."""
    epoch = re.fullmatch(r"epoch-(\d{1,9})\.safetensors", path.name)
    folder = path.parent if epoch is not None or path.name == "weights.safetensors" else path
    if folder.parent.name != "runs" or not folder.parent.is_dir():
        runs = sorted(each for pattern in ("runs/*", "*") for each in path.glob(f"{pattern}/record.jsonl"))
        if runs:
            raise SettingsError(
                f"{path} holds {plural(len(runs), 'run')} of a comparison; expected one of them, as {runs[0].parent}"
            )
        raise SettingsError(
            f"{str(path)!r} is neither a factory nor the folder of a run; expected path/to/file.py:name, "
            f"package.module:name, or DIR/runs/ID of a folder that bnkit compare wrote{what_it_is(str(path))}"
        )
    return Comparison(folder.parent.parent), folder.name, None if epoch is None else int(epoch[1])
