from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bnkit.data import load, prepare
from bnkit.errors import DataError


def _write(path, **changes):
    arrays = {
        "x_train": np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4),
        "y_test": np.array([[2], [0]], dtype=np.uint8),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def test_images_without_channels_get_one_and_bytes_stay_bytes(tmp_path):
    data = load(_write(tmp_path / "mine.npz"))
    assert (data.input_shape, data.classes) == ((1, 4, 4), 3)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs[1, 0, 0].tolist() == [16, 17, 18, 19]
    assert data.test.targets.tolist() == [2, 0]


def test_channels_that_stand_last_are_moved_to_the_front(tmp_path):
    images = np.arange(6 * 5 * 7 * 3, dtype=np.int64).astype(np.uint8).reshape(6, 5, 7, 3)
    data = load(_write(tmp_path / "mine.npz", x_train=images, x_test=images[:2]))
    assert data.input_shape == (3, 5, 7)
    assert data.train.inputs[2, :, 1, 3].tolist() == images[2, 1, 3].tolist()


def test_other_inputs_are_floating(tmp_path):
    table = np.linspace(0, 1, 12).reshape(6, 2)
    data = load(_write(tmp_path / "mine.npz", x_train=table, x_test=table[:2]))
    assert data.input_shape == (2,)
    assert torch.equal(prepare(data, "not_normal", 0.0).train.inputs, torch.from_numpy(table.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["?", "i2", ">i4", "<u2", ">u8", "f2", ">f4", "f8", "g"])
def test_every_number_type_is_read(tmp_path, dtype):
    values = np.arange(12).reshape(6, 2) % 3 % 2
    given, labels = values.astype(dtype), values[:, :1].astype("?" if dtype == "?" else "i4")
    path = _write(tmp_path / "mine.npz", x_train=given, x_test=given, y_train=labels, y_test=labels)
    data = load(str(Path(path).rename(tmp_path / "mine.NPZ")))
    assert prepare(data, "not_normal", 0.0).train.inputs.tolist() == values.tolist()
    assert data.train.targets.tolist() == values[:, 0].tolist()


def test_the_digest_follows_the_content(tmp_path):
    first = load(_write(tmp_path / "a.npz")).digest
    assert load(_write(tmp_path / "b.npz", y_train=np.array([1, 1, 2, 0, 1, 2]))).digest != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_test": None},
            "has only x_train, y_train, y_test, no x_test; expected the arrays x_train, y_train, x_test, y_test",
        ),
        (
            {"y_train": np.array(list("abcabc"))},
            r"targets of <U1, 'a', 'b', 'c'; .*numpy\.unique\(y, return_inverse=True\)",
        ),
        ({"x_train": np.zeros((6, 4), dtype=complex)}, "x_train of .* are inputs of complex128; expected numbers"),
        ({"y_train": np.zeros(6, dtype="datetime64[s]")}, r"y_train of .* are targets of datetime64\[s\]"),
        (
            {"y_train": np.array(["a", 1, 2, 0, 1, 2], dtype=object)},
            r"or an array in it holds objects\); expected .*, of numbers",
        ),
        ({"y_train": np.zeros(6)}, "class numbers in one part and floating targets in the other"),
        ({"x_train": np.array([object()] * 6)}, "cannot be read"),
        ({"x_train": np.zeros(6)}, r"inputs of shape \(6,\)"),
        ({"y_train": np.array([0, 1])}, "got 6 inputs and 2 targets"),
    ],
    ids=[
        "missing",
        "words",
        "complex",
        "dates",
        "objects as targets",
        "two kinds",
        "objects",
        "no features",
        "too few targets",
    ],
)
def test_invalid_input_is_refused(tmp_path, changes, message):
    path = _write(tmp_path / "mine.npz", **changes)
    with pytest.raises(DataError, match=message):
        load(path)


def test_cut_off_at_any_byte_it_is_named(tmp_path):
    path = tmp_path / "mine.npz"
    _write(path)
    content = path.read_bytes()
    for end in range(0, len(content), 41):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"mine\.npz"):
            load(str(path))


@pytest.mark.parametrize("content", [b"\x93 no numbers", b"text"])
def test_of_a_file_of_another_kind_nothing_is_unpickled(tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load(str(path))
    assert str(raised.value) == (
        f"{path} cannot be read (it is not an .npz file, or an array in it holds objects); expected an .npz file with the arrays "
        "x_train, y_train, x_test, y_test, of numbers"
    )


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.npz cannot be read"):
        load(str(tmp_path / "absent.npz"))
