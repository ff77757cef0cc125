from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bnkit.data import load
from bnkit.errors import DataError


def _image(path, value, mode="L", size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def _grey(folder, parts=("train", "test"), count=3):
    for part in parts:
        for number, name in enumerate(("ant", "bee")):
            for index in range(count):
                _image(folder / part / name / f"{index}.png", 100 * number + index)
    return folder


def test_train_and_test_and_the_classes_in_the_order_of_their_names(tmp_path):
    data = load(str(_grey(tmp_path)))
    assert (data.input_shape, data.classes) == ((1, 4, 5), 2)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(data.test) == 6


def test_without_parts_every_fifth_of_a_shuffle_tests(tmp_path):
    folder = _grey(tmp_path, parts=("",), count=10)
    data, again = load(str(folder)), load(str(folder))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert torch.equal(data.test.inputs, again.test.inputs)
    together = torch.cat([data.train.inputs, data.test.inputs])[:, 0, 0, 0]
    assert sorted(together.tolist()) == sorted([*range(10), *range(100, 110)])
    assert data.digest == again.digest


def test_one_image_in_colour_makes_all_of_them_colour(tmp_path):
    folder = _grey(tmp_path)
    _image(folder / "train" / "bee" / "9.png", (1, 2, 3), "RGB")
    data = load(str(folder))
    assert data.input_shape == (3, 4, 5)
    assert data.train.inputs[-1, :, 0, 0].tolist() == [1, 2, 3]


def test_other_files_are_left_alone(tmp_path):
    folder = _grey(tmp_path)
    (folder / "train" / "ant" / "Thumbs.db").write_text("")
    (folder / "train" / "notes").mkdir()
    assert len(load(str(folder)).train) == 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: _image(f / "train" / "ant" / "9.png", 1, size=(7, 4)), r"different sizes: .* is 5×4, .* is 7×4"),
        (lambda f: (f / "train" / "ant" / "0.png").write_bytes(b"\x89PNG\r\n"), r"0\.png cannot be decoded"),
        (lambda f: _image(f / "test" / "cat" / "0.png", 1), "has the class cat in one of train and test only"),
    ],
    ids=["sizes", "broken", "classes"],
)
def test_what_is_refused(tmp_path, spoil, message):
    spoil(_grey(tmp_path))
    with pytest.raises(DataError, match=message):
        load(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 0 sub-folders with images; expected one for each class"):
        load(str(tmp_path))


def test_cut_off_at_any_byte_an_image_is_named(tmp_path):
    folder = _grey(tmp_path)
    path = folder / "train" / "ant" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5), dtype=np.uint8)).save(path)
    content, whole, refused = path.read_bytes(), load(str(folder)).train.inputs, []
    for end in range(len(content)):
        path.write_bytes(content[:end])
        try:
            assert torch.equal(load(str(folder)).train.inputs, whole)  # all of the pixels were there
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > len(content) / 2
    assert all("0.png cannot be decoded" in message for message in refused)
