"""The record of a run: an append-only file with a JSON object on each line. Needs no torch.

``start`` lines hold the run and its environment, ``epoch`` lines the results, an ``end`` line the status. A run that was
interrupted resumes with another ``start`` line, whose ``from_epoch`` says how many of the earlier epochs count.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from bnkit.errors import RecordError
from bnkit.experiments.plan import FORMAT
from bnkit.experiments.records import atomic_files
from bnkit.experiments.records.example_scores import ExampleScores, load_example_scores


class Status(StrEnum):
    """The status of a run, as in ``results.csv``."""

    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch. Accuracies are from 0 to 1; durations are seconds of training, without evaluation.

    Attributes:
        epoch: From 1.
        loss, accuracy: Over the training batches of this epoch, as the weights moved; None once the loss was not finite.
        validation_loss, validation_accuracy: In evaluation mode; None without a validation split.
        test_loss, test_accuracy: In evaluation mode, with running statistics.
        test_accuracy_population: The same with the statistics of the whole training split; None if the network has no
            batch norm.
        metric, validation_metric, test_metric, test_metric_population: The experiment's own metric, if it has one,
            measured as the accuracies are. Accuracies are None if the targets are not classes.
        gradient_norm: The mean over the steps of the Euclidean norm of all gradients.
        epoch_duration: The duration of this epoch.
        run_duration: The total duration of the epochs so far.
        examples_per_second: Training examples over ``epoch_duration``.
        steps: Optimizer steps since the start of the run; None in records of earlier versions.
        backward_bytes: The memory of tensors saved for the backward pass of a batch; None without ``observe``.
        training_loss, training_accuracy, training_metric: On the training split without augmentation, in evaluation mode, with
            the weights at the end of the epoch; None without ``evaluate_training``.
        answers, test_answers: The number of predictions behind ``accuracy`` and ``test_accuracy``: one for each example, or
            each pixel of a mask; None without an accuracy, and in records of earlier versions.
        test_constant: The test metric of the best constant prediction; None if it is not known.
        layers: The records of ``bnkit.model.instrument.layer_instrumentation`` in this epoch, one for each observed step.
        landscape: The records of ``bnkit.model.instrument.loss_landscape``, likewise.
        peak_memory_bytes: The peak GPU memory of tensors in training, the data included; None on a CPU.
        test_scores: The SHA-256 of the file with the score of every test example; None before the last epoch, if the metric
            is not a mean over examples, and in records of earlier versions.
    """

    epoch: int
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    test_accuracy_population: float | None
    gradient_norm: float | None
    epoch_duration: float
    run_duration: float
    examples_per_second: float | None
    metric: float | None = None
    validation_metric: float | None = None
    test_metric: float | None = None
    test_metric_population: float | None = None
    steps: int | None = None
    backward_bytes: int | None = None
    layers: list[dict[str, Any]] | None = None
    landscape: list[dict[str, float | None]] | None = None
    peak_memory_bytes: int | None = None
    training_loss: float | None = None
    training_accuracy: float | None = None
    training_metric: float | None = None
    answers: int | None = None
    test_answers: int | None = None
    test_constant: float | None = None
    test_scores: str | None = None


@dataclass
class Record:
    """The record of a run.

    Attributes:
        status: None if it has not started.
        epochs: The results of each complete epoch.
        environment: The machine and the versions of its last start.
        first_layer: ``site``, ``gamma`` and ``beta`` of its first batch norm at the end, if it has one.
        traceback: The traceback of the exception that ended it, if it failed.
        folder: Where it was read from, with the file of its test scores; None for none.
    """

    status: Status | None = None
    epochs: list[Epoch] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    first_layer: dict[str, Any] | None = None
    traceback: str = ""
    folder: Path | None = field(default=None, repr=False, compare=False)

    @cached_property
    def example_scores(self) -> ExampleScores | None:
        """Its scores on each test example at its end, read once; None if they are not recorded, or unreadable."""
        digest = self.last.test_scores if self.last else None
        return None if digest is None or self.folder is None else load_example_scores(self.folder, digest)

    @property
    def lost_example_scores(self) -> bool:
        """Whether they were recorded, and their file is missing or damaged."""
        return self.last is not None and self.last.test_scores is not None and self.example_scores is None

    @property
    def is_complete(self) -> bool:
        """Whether it is fully trained. A failed run is tried again."""
        return self.status in (Status.FINISHED, Status.DIVERGED)

    @property
    def last(self) -> Epoch | None:
        """The results of the last epoch, if there is one."""
        return self.epochs[-1] if self.epochs else None


class RecordFile:
    """The file that holds the record of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Record:
        """The record in the file; an empty one if there is no file. A partial last line does not count.

        Raises:
            RecordError: If it was written by a newer bnkit.
            CorruptRecordError: If a complete line cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise RecordError(f"{self.path} cannot be read ({error.strerror}); expected a readable file") from error
        record = Record(folder=self.path.parent)
        whole_lines = content.split(b"\n")[:-1]  # after the last line break there is a partial line
        for number, line in enumerate(whole_lines, start=1):
            try:
                content = json.loads(line)
                _refuse_newer(content)
                if not _is_intact(line):
                    raise ValueError("the checksum does not match")
                _apply(record, content)
            except NewerFormatError as error:
                raise RecordError(f"{self.path}: {error}") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorruptRecordError(f"{self.path}, line {number}, cannot be read") from error
        return record

    def start(self, run: dict[str, Any], environment: dict[str, Any], from_epoch: int) -> None:
        """Record that the run starts, or resumes after ``from_epoch`` epochs."""
        atomic_files.truncate_partial_line(self.path)
        self._append(
            {"event": "start", "format": FORMAT, "run": run, "environment": environment, "from_epoch": from_epoch}
        )

    def add(self, epoch: Epoch) -> None:
        """Record an epoch."""
        self._append({"event": "epoch", **asdict(epoch)})

    def end(self, status: Status, *, first_layer: dict[str, Any] | None = None, traceback: str = "") -> None:
        """Record how the run ended."""
        line: dict[str, Any] = {"event": "end", "status": status.value}
        if first_layer is not None:
            line["first_layer"] = first_layer
        if traceback:
            line["traceback"] = traceback
        self._append(line)

    def quarantine(self) -> Path:
        """Rename a corrupt file, which is kept, and return its new path."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.stem}.garbled-{number}{self.path.suffix}")).exists():
            number += 1
        try:
            return self.path.rename(aside)
        except OSError as error:
            raise atomic_files.UnwritableError.of(self.path, error) from error

    def _append(self, line: dict[str, Any]) -> None:
        atomic_files.append(self.path, _with_checksum(json.dumps(line, allow_nan=False).encode()) + b"\n")


class NewerFormatError(RecordError):
    """A record in a newer format."""


class CorruptRecordError(RecordError):
    """A record with a line that cannot be read: the run has to resume from its checkpoint, or start from scratch."""


# The end of a line: the CRC-32 of the rest, which detects digits that changed on disk.
_CHECKSUM = re.compile(rb', "seal": "([0-9a-f]{8})"}$')


def _with_checksum(line: bytes) -> bytes:
    body = line.removesuffix(b"}")
    return body + f', "seal": "{zlib.crc32(body):08x}"}}'.encode()


def _is_intact(line: bytes) -> bool:
    """Whether the checksum matches, or there is none, as in records of earlier versions."""
    checksum = _CHECKSUM.search(line)
    return checksum is None or int(checksum[1], 16) == zlib.crc32(line[: checksum.start()])


def _refuse_newer(line: dict[str, Any]) -> None:
    if line["event"] == "start" and line["format"] > FORMAT:
        raise NewerFormatError(
            f"format {line['format']} was written by a newer bnkit; expected at most {FORMAT}: update bnkit, or use "
            "another `out`"
        )


_EPOCH_FIELDS = frozenset(entry.name for entry in fields(Epoch))


def _apply(record: Record, line: dict[str, Any]) -> None:
    match line["event"]:
        case "start":
            record.status, record.first_layer, record.traceback = Status.RUNNING, None, ""
            record.environment = line["environment"]
            record.epochs = [epoch for epoch in record.epochs if epoch.epoch <= line["from_epoch"]]
        case "epoch":
            record.epochs.append(Epoch(**{key: value for key, value in line.items() if key in _EPOCH_FIELDS}))
        case "end":
            record.status = Status(line["status"])
            record.first_layer = line.get("first_layer")
            record.traceback = line.get("traceback", "")
        case _:
            pass  # an event that a later version added
