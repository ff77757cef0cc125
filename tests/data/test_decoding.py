"""Images of every kind, by value: what a file says is what a network is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bnkit.data.decoding import decode, stack_images
from bnkit.errors import DataError

_GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
_COLOUR = np.stack([_GREY, 255 - _GREY, np.full_like(_GREY, 7)], 2)
_WIDE = (_GREY.astype(np.uint16) << 8) + 5


def _saved(folder, *pictures, ending="png", **options):
    files = []
    for picture in pictures:
        files.append(folder / f"{len(files)}.{ending}")
        picture.save(files[-1], **options)
    return files


def _read(files):
    return stack_images([decode(file) for file in files], files, files[0].parent)


def _alpha(values, alpha):
    return Image.fromarray(np.dstack([values, np.full(values.shape[:2], alpha, dtype=np.uint8)]))


def _palette(transparent=False):
    picture = Image.fromarray(np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    if transparent:
        picture.info["transparency"] = 1
    return picture


_PALETTE = np.array([[10, 40, 70], [70, 40, 10]]), np.array([[20, 50, 80], [80, 50, 20]])
_PALETTE = np.stack([*_PALETTE, np.array([[30, 60, 90], [90, 60, 30]])])
_PALETTE_ON_WHITE = np.where(_PALETTE[:1] == 40, 255, _PALETTE)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("picture", "ending", "expected"),
    [
        (lambda: Image.fromarray(_GREY), "png", _GREY[None]),
        (lambda: Image.fromarray(_GREY > 100), "png", (_GREY > 100)[None] * 255),
        (lambda: Image.fromarray(_GREY > 100), "tif", (_GREY > 100)[None] * 255),
        (lambda: Image.fromarray(_COLOUR), "png", _COLOUR.transpose(2, 0, 1)),
        (lambda: Image.fromarray(_COLOUR), "bmp", _COLOUR.transpose(2, 0, 1)),
        (_palette, "png", _PALETTE),
        (_palette, "gif", _PALETTE),
        (lambda: _palette(transparent=True), "png", _PALETTE_ON_WHITE),
        (lambda: _alpha(_GREY, 255), "png", _GREY[None]),
        (lambda: _alpha(_COLOUR, 255), "png", _COLOUR.transpose(2, 0, 1)),
        (lambda: _alpha(_COLOUR, 0), "png", np.full((3, 2, 3), 255)),
        (lambda: _alpha(_GREY, 51), "png", np.round(255 - (255 - _GREY[None].astype(float)) / 5)),
        (lambda: Image.fromarray(_COLOUR).convert("CMYK"), "tif", _COLOUR.transpose(2, 0, 1)),
    ],
    ids=[
        "grey", "1 bit", "1 bit TIFF", "colour", "BMP", "palette", "GIF", "transparent palette", "LA", "RGBA", "clear RGBA",
        "see-through LA", "CMYK",
    ],
)  # fmt: skip
def test_eight_bits_stay_bytes(tmp_path, picture, ending, expected):
    images = _read(_saved(tmp_path, picture(), ending=ending))
    assert images.dtype == torch.uint8
    assert images[0].tolist() == expected.tolist()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_count_from_0_to_1(tmp_path, ending):
    images = _read(_saved(tmp_path, Image.fromarray(_WIDE), ending=ending))
    assert images.dtype == torch.float32
    torch.testing.assert_close(images[0, 0], torch.from_numpy(_WIDE.astype(np.float32) / 65535))


def test_sixteen_bits_of_a_portable_graymap(tmp_path):
    (tmp_path / "0.pgm").write_bytes(b"P5 3 2 65535\n" + _WIDE.astype(">u2").tobytes())
    torch.testing.assert_close(_read([tmp_path / "0.pgm"])[0, 0], torch.from_numpy(_WIDE.astype(np.float32) / 65535))


def test_bytes_and_sixteen_bits_are_each_scaled_by_their_range(tmp_path):
    images = _read(
        _saved(
            tmp_path, Image.fromarray(_GREY), Image.fromarray(_GREY.astype(np.uint16) * 257), Image.fromarray(_COLOUR)
        )
    )
    assert images.shape == (3, 3, 2, 3)
    torch.testing.assert_close(images[0], images[1])
    torch.testing.assert_close(images[0, 0], torch.from_numpy(_GREY / 255).float())
    torch.testing.assert_close(images[2], torch.from_numpy(_COLOUR.transpose(2, 0, 1) / 255).float())


@pytest.mark.parametrize(
    "values",
    [np.linspace(-3.5, 1e6, 6, dtype=np.float32), np.arange(-3, 300_000, 60_000, dtype=np.int32)],
    ids=["F", "I"],
)
def test_numbers_without_a_range_stay_as_they_are(tmp_path, values):
    values = values[:6].reshape(2, 3)
    images = _read(_saved(tmp_path, Image.fromarray(values), Image.fromarray(values + 1), ending="tif"))
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0], torch.from_numpy(np.stack([values, values + 1]).astype(np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_as_its_camera_says(tmp_path, orientation):
    """Against the definition of the tag: 6 is "turn by 90° clockwise to show", and so on."""
    turned = {
        1: _GREY,
        2: _GREY[:, ::-1],
        3: _GREY[::-1, ::-1],
        4: _GREY[::-1],
        5: _GREY.T,
        6: np.rot90(_GREY, -1),
        7: _GREY[::-1, ::-1].T,
        8: np.rot90(_GREY),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert _read(_saved(tmp_path, Image.fromarray(_GREY), exif=exif))[0, 0].tolist() == turned[orientation].tolist()


@pytest.mark.parametrize(
    ("pictures", "ending", "options", "message"),
    [
        (
            [Image.fromarray(_GREY)],
            "gif",
            {"save_all": True, "append_images": [Image.fromarray(255 - _GREY)]},
            "2 pictures",
        ),
        ([Image.fromarray(_GREY)], "tif", {"save_all": True, "append_images": [Image.fromarray(_GREY)]}, "2 pictures"),
        (
            [Image.fromarray(_GREY), Image.fromarray(_GREY.astype(np.float32))],
            "tif",
            {},
            r"different kinds: .*0\.tif has 8 bits \(L\), .*1\.tif has numbers without a range \(F\)",
        ),
        ([Image.fromarray(np.full((2, 2), np.nan, np.float32))], "tif", {}, r"0\.tif has pixels that are NaN or inf"),
    ],
    ids=["animated", "pages", "kinds", "NaN"],
)
def test_invalid_input_is_refused(tmp_path, pictures, ending, options, message):
    with pytest.raises(DataError, match=message):
        _read(_saved(tmp_path, *pictures, ending=ending, **options))


def test_a_photograph_with_a_preview_is_one_picture(tmp_path):
    files = _saved(
        tmp_path, Image.fromarray(_GREY), ending="mpo", save_all=True, append_images=[Image.fromarray(255 - _GREY)]
    )
    files[0].rename(tmp_path / "0.jpg")
    assert _read([tmp_path / "0.jpg"]).shape == (1, 1, 2, 3)
