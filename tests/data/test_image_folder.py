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
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".hidden/0.png", "__MACOSX/ant/._0.png"):
        (folder / "train" / "ant" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "train" / "ant" / name).write_text("")
    for name in ("notes", ".ipynb_checkpoints", "__MACOSX"):
        (folder / "train" / name).mkdir()
    (folder / ".cache.png").write_text("")
    (folder / "labels.csv").write_text("")
    data = load(str(folder))
    assert (len(data.train), data.remarks()) == (6, [])


def test_files_of_a_class_that_are_no_images_are_named(tmp_path):
    folder = _grey(tmp_path)
    (folder / "train" / "bee" / "7.heic").write_text("")
    assert load(str(folder)).remarks() == [f"1 file that is not an image was left out of {folder}: train/bee/7.heic"]
    (folder / "test" / "ant" / "7").write_text("")
    assert load(str(folder)).remarks() == [
        f"2 files that are not images were left out of {folder}: train/bee/7.heic, …"
    ]


@pytest.mark.parametrize(
    ("names", "test"),
    [
        (("train", "test"), "test"),
        (("Training", "Testing"), "Testing"),
        (("train", "val"), "val"),
        (("TRAIN", "valid"), "valid"),
        (("train", "test", "val"), "test"),
    ],
    ids="-".join,
)
def test_parts_by_their_usual_names(tmp_path, names, test):
    _grey(tmp_path, parts=names)
    _image(tmp_path / test / "ant" / "9.png", 77)
    data = load(str(tmp_path))
    assert (len(data.train), len(data.test)) == (6, 7)
    unused = [f"{tmp_path / name} is not used: train trains, and test tests" for name in names[2:]]
    assert data.remarks() == unused


def test_links_and_endings_of_all_kinds_are_followed(tmp_path):
    folder = _grey(tmp_path / "here")
    _image(tmp_path / "there" / "PHOTO.JPG", 30)
    Image.new("L", (5, 4), 40).save(tmp_path / "there" / "b.JFIF", format="JPEG")
    (folder / "train" / "cat").symlink_to(tmp_path / "there", target_is_directory=True)
    (folder / "test" / "cat").mkdir()
    (folder / "test" / "cat" / "a.TIFF").symlink_to(folder / "train" / "ant" / "2.png")
    data = load(str(folder))
    assert data.train.inputs[-2:, 0, 0, 0].tolist() == [30, 40]
    assert data.test.inputs[-1, 0, 0, 0] == 2


def test_sixteen_bits_tell_what_they_show(tmp_path):
    """A dark and a bright class, as microscopes and depth cameras write them."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, offset in (("bright", 31_000), ("dark", 1_000)):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                values = random.integers(0, 20_000, (4, 5)).astype(np.uint16) + np.uint16(offset)
                Image.fromarray(values).save(tmp_path / part / name / f"{index}.png")
    images = load(str(tmp_path)).train.inputs
    assert images.dtype == torch.float32
    assert (images[:4].min(), images[:4].max()) > (31_000 / 65_535 - 1e-6, images[4:].max())


def test_images_that_are_all_alike_are_refused(tmp_path):
    for part, name, index in ((part, name, index) for part in ("train", "test") for name in "ab" for index in range(3)):
        _image(tmp_path / part / name / f"{index}.png", 255)
    with pytest.raises(DataError, match="the 6 inputs of the training part of .* are all the same"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: _image(f / "train" / "ant" / "9.png", 1, size=(7, 4)), r"different sizes: .* is 5×4, .* is 7×4"),
        (lambda f: (f / "train" / "ant" / "0.png").write_bytes(b"\x89PNG\r\n"), r"0\.png cannot be decoded"),
        (lambda f: _image(f / "test" / "cat" / "0.png", 1), "has the class cat in one of train and test only"),
        (
            lambda f: (_image(f / "train" / "cat" / "0.png", 1), (f / "test" / "cat").mkdir()),
            r"train/cat has images, .*none",
        ),
        (
            lambda f: _image(f / "train" / "ant" / "more" / "0.png", 1),
            r"ant/more/0\.png lies deeper than the folder of a class",
        ),
        (lambda f: _image(f / "test" / "ant" / "a" / "b" / "0.png", 1), r"ant/a/b/0\.png lies deeper"),
        (lambda f: _image(f / "train" / "0.png", 1), r"train/0\.png lies next to the folders of the classes"),
        (lambda f: _image(f / "0.png", 1), r"/0\.png lies next to the folders of the classes"),
        (lambda f: (f / "test").rename(f / "other"), r"other/ant/0\.png lies deeper .*, or train and test"),
        (lambda f: (f / "train" / "ant" / "x.png").symlink_to(f / "absent"), r"x\.png cannot be decoded"),
    ],
    ids=["sizes", "broken", "classes", "no images", "deeper", "deepest", "beside", "beside parts", "parts", "dangling"],
)
def test_invalid_input_is_refused(tmp_path, spoil, message):
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
