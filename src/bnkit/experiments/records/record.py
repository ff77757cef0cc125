"""What is written down of a run: one append-only file, a JSON object a line. Needs no torch.

``start`` lines carry what the run is and where it runs, ``epoch`` lines the figures, an ``end`` line the outcome. A run
that was interrupted goes on with another ``start`` line, whose ``from_epoch`` says how many epochs count of those before.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from bnkit.errors import RecordError
from bnkit.experiments.plan import FORMAT
from bnkit.experiments.records import atomic_files


class Status(StrEnum):
    """How a run stands: also the words of ``results.csv``."""

    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Epoch:
    """The figures of one epoch. Accuracies run from 0 to 1; durations are seconds of training, evaluation left out.

    Attributes:
        epoch: From 1.
        loss, accuracy: Over the training batches of this epoch, as the weights moved; None once the loss was not finite.
        validation_loss, validation_accuracy: In evaluation mode; None without a validation part.
        test_loss, test_accuracy: In evaluation mode, batch norm by its moving average.
        test_accuracy_population: The same weights, batch norm by the statistics of the whole training part; None
            where the network has no batch norm.
        metric, validation_metric, test_metric, test_metric_population: The experiment's own metric, measured as the
            accuracies are, if it has one; accuracies are None where the targets are no classes.
        gradient_norm: The mean over the steps of the Euclidean norm of all gradients.
        epoch_duration: This epoch's.
        run_duration: The sum of the epochs' so far.
        examples_per_second: Training examples over ``epoch_duration``.
        steps: Of the optimizer, from the beginning of the run; None in records of earlier versions.
        backward_bytes: What a training batch keeps in memory for its backward pass; None where nobody looked inside.
        training_loss, training_accuracy, training_metric: Of the training part as it is, in evaluation mode, with the weights at
            the end of the epoch; None where the experiment does not ask for it.
        answers, test_answers: Of how many answers ``accuracy`` and ``test_accuracy`` are the share that is right: one for each
            example, or for each pixel of a mask; None where there is no accuracy, and in records of earlier versions.
        test_constant: What the best constant answer scores on the test set, by what networks are judged by; None where that is
            not known.
        layers: What ``bnkit.model.instrument.layers`` saw in this epoch, an entry a step that was looked at.
        landscape: What ``bnkit.model.instrument.loss_landscape`` saw, likewise.
        peak_memory_bytes: The most that tensors took on the GPU in training, those of the data included; None on a CPU.
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


@dataclass
class Record:
    """What is known of a run.

    Attributes:
        status: None if it never began.
        epochs: Its figures, one for each whole epoch.
        environment: The machine and the versions that it (last) ran with.
        first_layer: ``site``, ``gamma`` and ``beta`` of its first batch norm at the end, if it has one.
        traceback: Of the exception that ended it, if it failed.
    """

    status: Status | None = None
    epochs: list[Epoch] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    first_layer: dict[str, Any] | None = None
    traceback: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to train. A failed run is tried again."""
        return self.status in (Status.FINISHED, Status.DIVERGED)

    @property
    def last(self) -> Epoch | None:
        """The figures of the last epoch, if there is one."""
        return self.epochs[-1] if self.epochs else None


class RecordFile:
    """The file of one run's record."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Record:
        """What the file says; an empty record if there is none. A last line that was cut off does not count.

        Raises:
            RecordError: It was written by a newer bnkit.
            CorruptRecordError: A line before the last cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Record()
        except OSError as error:
            raise RecordError(f"{self.path} cannot be read ({error.strerror}); expected a readable file") from error
        record = Record()
        whole_lines = content.split(b"\n")[:-1]  # what follows the last line break was cut off while it was written
        for number, line in enumerate(whole_lines, start=1):
            try:
                content = json.loads(line)
                _refuse_newer(content)
                if not _is_intact(line):
                    raise ValueError("the seal does not match")
                _apply(record, content)
            except NewerFormatError as error:
                raise RecordError(f"{self.path}: {error}") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorruptRecordError(f"{self.path}, line {number}, cannot be read") from error
        return record

    def start(self, run: dict[str, Any], environment: dict[str, Any], from_epoch: int) -> None:
        """Say that the run begins, or goes on after ``from_epoch`` epochs."""
        atomic_files.truncate_partial_line(self.path)
        self._append(
            {"event": "start", "format": FORMAT, "run": run, "environment": environment, "from_epoch": from_epoch}
        )

    def add(self, epoch: Epoch) -> None:
        """Write down an epoch."""
        self._append({"event": "epoch", **asdict(epoch)})

    def end(self, status: Status, *, first_layer: dict[str, Any] | None = None, traceback: str = "") -> None:
        """Write down how the run ended."""
        line: dict[str, Any] = {"event": "end", "status": status.value}
        if first_layer is not None:
            line["first_layer"] = first_layer
        if traceback:
            line["traceback"] = traceback
        self._append(line)

    def quarantine(self) -> Path:
        """Rename a garbled file so that nothing of it is lost, and return its new path."""
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
    """A record of a format that this version does not know: left alone."""


class CorruptRecordError(RecordError):
    """A record with a line that cannot be read: the run has to be trained again, or go on from its checkpoint."""


# At the end of a line: the CRC-32 of what stands before it, so that a digit that changed on disk does not pass for a figure.
_CHECKSUM = re.compile(rb', "seal": "([0-9a-f]{8})"}$')


def _with_checksum(line: bytes) -> bytes:
    body = line.removesuffix(b"}")
    return body + f', "seal": "{zlib.crc32(body):08x}"}}'.encode()


def _is_intact(line: bytes) -> bool:
    """Whether its seal matches; records were written before there were seals, and a line without one counts."""
    checksum = _CHECKSUM.search(line)
    return checksum is None or int(checksum[1], 16) == zlib.crc32(line[: checksum.start()])


def _refuse_newer(line: dict[str, Any]) -> None:
    if line["event"] == "start" and line["format"] > FORMAT:
        raise NewerFormatError(
            f"format {line['format']} was written by a newer bnkit; expected at most {FORMAT}: update bnkit, or use "
            "another --out"
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
            pass  # an event of a later version that this one need not know
