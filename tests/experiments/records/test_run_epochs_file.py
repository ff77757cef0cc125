from __future__ import annotations

import json

import pytest

from bnkit.errors import RecordError
from bnkit.experiments.plan import FORMAT
from bnkit.experiments.records.run_epochs_file import CorruptRecordError, Epoch, Record, RecordFile, Status


def _epoch(number, **changes):
    figures = {
        "loss": 0.5, "accuracy": 0.25, "validation_loss": None, "validation_accuracy": None, "test_loss": 1 / 3,
        "test_accuracy": 0.1, "test_accuracy_population": None, "gradient_norm": 2.0, "epoch_duration": 0.1,
        "run_duration": 0.1 * number, "examples_per_second": 1e4,
    }  # fmt: skip
    return Epoch(epoch=number, **{**figures, **changes})


def _written(tmp_path, epochs=3):
    file = RecordFile(tmp_path / "record.jsonl")
    file.start({"seed": 0}, {"torch": "2.13.0"}, 0)
    for number in range(1, epochs + 1):
        file.add(_epoch(number))
    return file


def test_it_reads_what_was_written(tmp_path):
    file = _written(tmp_path)
    assert file.read() == Record(Status.RUNNING, [_epoch(1), _epoch(2), _epoch(3)], {"torch": "2.13.0"})
    file.end(Status.FINISHED, first_layer={"site": "norm1", "gamma": [1.0], "beta": [0.0]})
    record = file.read()
    assert record.is_complete
    assert record.last == _epoch(3)
    assert record.first_layer["site"] == "norm1"


def test_a_run_that_never_began_has_an_empty_record(tmp_path):
    assert RecordFile(tmp_path / "none.jsonl").read() == Record()


def test_going_on_keeps_the_epochs_that_count(tmp_path):
    file = _written(tmp_path)
    file.start({"seed": 0}, {"torch": "2.14.0"}, 2)
    file.add(_epoch(3, loss=0.1))
    assert file.read().epochs == [_epoch(1), _epoch(2), _epoch(3, loss=0.1)]
    assert file.read().environment == {"torch": "2.14.0"}


def test_a_failure_keeps_its_traceback_and_is_not_complete(tmp_path):
    file = _written(tmp_path)
    file.end(Status.FAILED, traceback="Traceback: <b>boom</b>")
    assert file.read().traceback == "Traceback: <b>boom</b>"
    assert not file.read().is_complete
    file.start({"seed": 0}, {}, 0)
    assert file.read().traceback == ""


@pytest.mark.slow
def test_cut_off_at_any_byte_the_whole_lines_before_count(tmp_path):
    content = _written(tmp_path).path.read_bytes()
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content)):
        file = RecordFile(tmp_path / "cut.jsonl")
        file.path.write_bytes(content[:cut])
        whole = sum(end < cut for end in ends)
        assert len(file.read().epochs) == max(0, whole - 1)
        file.start({"seed": 0}, {}, max(0, whole - 1))
        file.add(_epoch(max(0, whole - 1) + 1))
        assert [epoch.epoch for epoch in file.read().epochs] == list(range(1, max(0, whole - 1) + 2))
        file.path.unlink()


def test_a_corrupt_line_is_named_and_the_file_can_be_quarantined(tmp_path):
    file = _written(tmp_path)
    lines = file.path.read_bytes().split(b"\n")
    lines[1] = lines[1][:10] + b"\0" + lines[1][11:]
    file.path.write_bytes(b"\n".join(lines))
    with pytest.raises(CorruptRecordError, match=r"record.jsonl, line 2, cannot be read"):
        file.read()
    first = file.quarantine()
    assert first.name == "record.garbled-1.jsonl"
    assert first.read_bytes() == b"\n".join(lines)
    _written(tmp_path)
    assert file.quarantine().name == "record.garbled-2.jsonl"


def test_a_newer_format_is_refused_and_an_unknown_event_is_not(tmp_path):
    file = _written(tmp_path)
    with file.path.open("a") as opened:
        opened.write(json.dumps({"event": "of tomorrow"}) + "\n")
    assert len(file.read().epochs) == 3
    with file.path.open("a") as opened:
        opened.write(json.dumps({"event": "start", "format": FORMAT + 1, "environment": {}, "from_epoch": 0}) + "\n")
    with pytest.raises(
        RecordError, match=f"format {FORMAT + 1} was written by a newer bnkit; expected at most {FORMAT}"
    ):
        file.read()


# As the first version wrote them: without seals, without what later versions measure.
_OLD = [
    {"event": "start", "format": 1, "run": {"seed": 0}, "environment": {"torch": "2.11.0"}, "from_epoch": 0},
    {
        "event": "epoch", "epoch": 1, "loss": 0.5, "accuracy": 0.25, "validation_loss": None, "validation_accuracy": None,
        "test_loss": 0.75, "test_accuracy": 0.5, "test_accuracy_population": None, "gradient_norm": 2.0,
        "epoch_duration": 0.5, "run_duration": 0.5, "examples_per_second": 144.0,
    },
]  # fmt: skip


def test_a_record_of_an_older_version_is_read_and_goes_on(tmp_path):
    file = RecordFile(tmp_path / "record.jsonl")
    file.path.write_text("".join(json.dumps(line) + "\n" for line in _OLD))
    record = file.read()
    assert (record.status, len(record.epochs), record.environment) == (Status.RUNNING, 1, {"torch": "2.11.0"})
    old = record.epochs[0]
    assert (old.loss, old.test_accuracy, old.run_duration) == (0.5, 0.5, 0.5)
    assert (old.steps, old.metric, old.layers, old.peak_memory_bytes, old.training_loss) == (None,) * 5
    file.start({"seed": 0}, {"torch": "2.13.0"}, 1)
    file.add(_epoch(2))
    file.end(Status.FINISHED)
    assert file.read().epochs == [old, _epoch(2)]
    assert file.read().is_complete


def test_a_field_of_a_later_version_is_passed_over(tmp_path):
    file = _written(tmp_path, epochs=0)
    line = {"event": "epoch", "colour": "blue", **_epoch(1).__dict__}
    with file.path.open("a") as opened:
        opened.write(json.dumps(line) + "\n")
    assert file.read().epochs == [_epoch(1)]
