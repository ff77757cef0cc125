"""The file of test scores: what is read is what was written, or nothing."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest

from bnkit.experiments.records.example_scores import FILE, ExampleScores, load_example_scores, save_example_scores
from bnkit.experiments.records.run_epochs_file import Record, RecordFile, Status
from tests.report.fake_runs import epoch


def _right(count, seed=0):
    return np.random.default_rng(seed).random(count) < 0.9


@pytest.mark.parametrize("count", [0, 1, 7, 8, 10_000])
def test_right_and_wrong_answers(tmp_path, count):
    written = ExampleScores(_right(count), _right(count, seed=1))
    read = load_example_scores(tmp_path, save_example_scores(tmp_path, written))
    assert read.moving_average.dtype == bool
    assert read.moving_average.tolist() == written.moving_average.tolist()
    assert read.population.tolist() == written.population.tolist()
    assert (tmp_path / FILE).stat().st_size <= 2 * count / 8 + 1000


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_other_scores_to_three_digits(tmp_path, scale):
    written = np.random.default_rng(0).normal(size=100) * scale
    read = load_example_scores(tmp_path, save_example_scores(tmp_path, ExampleScores(written)))
    np.testing.assert_allclose(read.moving_average, written, rtol=1e-3, atol=1e-6 * scale)
    assert read.population is None


def test_scores_that_are_all_nothing(tmp_path):
    read = load_example_scores(tmp_path, save_example_scores(tmp_path, ExampleScores(np.zeros(5))))
    assert read.moving_average.tolist() == [0.0] * 5


def test_the_same_scores_have_the_same_digest(tmp_path):
    (tmp_path / "other").mkdir()
    assert save_example_scores(tmp_path, ExampleScores(_right(50))) == save_example_scores(
        tmp_path / "other", ExampleScores(_right(50))
    )


def _changed(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


@pytest.mark.parametrize("change", [None, _changed, lambda content: content[:-1], lambda content: b""])
def test_a_file_that_is_missing_or_another_is_not_read(tmp_path, change):
    digest = save_example_scores(tmp_path, ExampleScores(_right(50)))
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).unlink()
    if change is not None:
        (tmp_path / FILE).write_bytes(change(content))
    assert load_example_scores(tmp_path, digest) is None


def _npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        _npz(moving_average=np.zeros(1, np.uint8)),
        _npz(examples=np.array(3), moving_average=np.array([print], dtype=object)),
    ],
    ids=["no archive", "a part is missing", "a pickle"],
)
def test_what_bnkit_did_not_write_is_not_read(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    assert load_example_scores(tmp_path, hashlib.sha256(content).hexdigest()) is None


def test_a_record_reads_the_file_beside_it(tmp_path):
    digest = save_example_scores(tmp_path, ExampleScores(_right(50)))
    file = RecordFile(tmp_path / "record.jsonl")
    file.start({}, {}, 0)
    file.add(epoch(1, 0.5, test_scores=digest))
    file.end(Status.FINISHED)
    record = file.read()
    assert record.example_scores.moving_average.tolist() == _right(50).tolist()
    assert not record.lost_example_scores
    (tmp_path / FILE).unlink()
    assert record.example_scores is not None  # read once
    assert file.read().example_scores is None
    assert file.read().lost_example_scores


def test_a_record_without_it_has_lost_nothing():
    record = Record(Status.FINISHED, [epoch(1, 0.5)])
    assert record.example_scores is None
    assert not record.lost_example_scores
