"""Decode image files, and stack the images of a folder into one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bnkit.errors import DataError

_BYTES, _SHORTS, _NUMBERS = "8 bits", "16 bits", "numbers without a range"
_GREY = frozenset({"1", "L", "LA", "La"})
# Phones append a preview or a depth map to a photograph; in other formats several frames are several images.
_FIRST_OF_SEVERAL = frozenset({"MPO"})
# Formats whose 16-bit pixels some versions of Pillow decode as 32-bit.
_WITHOUT_32_BITS = frozenset({"PNG", "PPM"})


def decode(file: Path) -> Image.Image:
    """The image in ``file``, rotated by its EXIF orientation, on white where it is transparent.

    Raises:
        DataError: If it cannot be decoded, or holds several images.
    """
    try:
        with Image.open(file) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format not in _FIRST_OF_SEVERAL:
                raise DataError(
                    f"{file} holds {frames} pictures; expected one: save each in a separate file, or remove the file"
                )
            has_shorts = picture.format in _WITHOUT_32_BITS
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data and _pixel_kind(upright) == _BYTES:
                upright = _on_white(upright)
            elif _pixel_kind(upright) == _BYTES and upright.mode not in _GREY:
                upright = upright.convert("RGB")
            return upright.convert("I;16") if has_shorts and upright.mode == "I" else upright.copy()
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on corrupt files
        raise DataError(f"{file} cannot be decoded ({error}); expected an image: repair or remove it") from error


def stack_images(pictures: Sequence[Image.Image], files: Sequence[Path], folder: Path) -> Tensor:
    """All ``pictures`` in one tensor, (N, 1, H, W) if all are grey, else (N, 3, H, W).

    uint8 if all have 8 bits or fewer; float32 from 0 to 1 if some have 16. Floating-point and 32-bit images have no fixed
    range: they become float32 unscaled, and cannot be mixed with others.

    Raises:
        DataError: If they differ in size, or mix pixels with and without a fixed range.
    """
    first = pictures[0]
    for picture, file in zip(pictures, files, strict=True):
        if picture.size != first.size:
            (one, other), (width, height) = first.size, picture.size
            raise DataError(
                f"{folder} has images of different sizes: {files[0]} is {one}×{other}, {file} is {width}×{height}; "
                "expected one size: scale them first"
            )
        if (_pixel_kind(picture) == _NUMBERS) != (_pixel_kind(first) == _NUMBERS):
            raise DataError(
                f"{folder} has images of different kinds: {files[0]} has {_pixel_kind(first)} ({first.mode}), {file} has "
                f"{_pixel_kind(picture)} ({picture.mode}); expected all of one kind, to scale them alike"
            )
        if picture.mode == "F" and not bool(np.isfinite(np.array(picture)).all()):
            raise DataError(f"{file} has pixels that are NaN or inf; expected finite ones: repair or remove it")
    colours = 1 if all(picture.mode != "RGB" for picture in pictures) else 3
    is_bytes = all(_pixel_kind(picture) == _BYTES for picture in pictures)
    return torch.stack([_tensor(picture, colours, is_bytes) for picture in pictures])


def _pixel_kind(picture: Image.Image) -> str:
    if picture.mode.startswith("I;16"):
        return _SHORTS
    return _NUMBERS if picture.mode in ("I", "F") else _BYTES


def _on_white(picture: Image.Image) -> Image.Image:
    """``picture`` on white, as viewers show it: without alpha, hidden pixels would show, mostly as black."""
    white = Image.new("RGBA", picture.size, "white")
    composite = Image.alpha_composite(white, picture.convert("RGBA"))
    return composite.convert("L" if picture.mode in _GREY else "RGB")


def _tensor(picture: Image.Image, colours: int, is_bytes: bool) -> Tensor:
    """(colours, H, W), uint8 or float32."""
    kind = _pixel_kind(picture)
    if kind == _BYTES:
        picture = picture.convert("L" if colours == 1 else "RGB")
        values = np.array(picture, dtype=np.uint8)
        image = torch.from_numpy(values) if is_bytes else torch.from_numpy(values.astype(np.float32) / 255)
        return image[None] if colours == 1 else image.permute(2, 0, 1).contiguous()
    array = np.array(picture).astype(np.float32)
    return torch.from_numpy(array / 65535 if kind == _SHORTS else array)[None].expand(colours, -1, -1)
