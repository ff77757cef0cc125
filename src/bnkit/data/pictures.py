"""A data set in a folder of images: a folder for each class."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bnkit.data.examples import DataSet, Examples
from bnkit.data.waiting import followed
from bnkit.errors import DataError

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm", ".tif", ".tiff"})


def read(folder: Path) -> DataSet:
    """The images in ``folder``, one class a sub-folder, the classes numbered in the order of their names.

    ``folder/train`` and ``folder/test`` hold the two parts; without them, every fifth of a fixed shuffle of all images
    tests. Images are (N, 1, H, W) where all are grey, else (N, 3, H, W); uint8.

    Raises:
        DataError: There are no images, one cannot be decoded, their sizes differ, or the parts have different classes.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        by_part = [_files(folder / "train"), _files(folder / "test")]
        if by_part[0].keys() != by_part[1].keys():
            odd = min(by_part[0].keys() ^ by_part[1].keys())
            raise DataError(f"{folder} has the class {odd} in one of train and test only; expected the same in both")
    else:
        by_part = [_files(folder)]
    listed = [(number, file) for files in by_part for number, name in enumerate(sorted(files)) for file in files[name]]
    pictures = [_decode(file) for _, file in followed(listed, f"reading {folder}")]
    sizes = {picture.size: file for picture, (_, file) in zip(pictures, listed, strict=True)}
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise DataError(
            f"{folder} has images of different sizes: {first} is {one[0]}×{one[1]}, {second} is {other[0]}×{other[1]}; "
            "expected one size: scale them first"
        )
    mode = "L" if all(picture.mode in ("L", "1") for picture in pictures) else "RGB"
    images = torch.stack([_tensor(picture.convert(mode)) for picture in pictures])
    targets = torch.tensor([number for number, _ in listed])
    digest = hashlib.sha256(images.numpy().tobytes() + targets.numpy().tobytes()).hexdigest()
    if len(by_part) == 2:
        size = sum(len(files) for files in by_part[0].values())
        train, test = torch.arange(size), torch.arange(size, len(listed))
    else:
        order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(0))
        test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return DataSet(str(folder), digest, Examples(images[train], targets[train]), Examples(images[test], targets[test]))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, in the order of their names."""
    found = {
        place.name: sorted(file for file in place.iterdir() if file.suffix.lower() in _ENDINGS)
        for place in folder.iterdir()
        if place.is_dir()
    }
    classes = {name: files for name, files in found.items() if files}
    if len(classes) < 2:
        raise DataError(
            f"{folder} has {len(classes)} sub-folders with images; expected one for each class, two or more, or train "
            "and test with those in each"
        )
    return classes


def _decode(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be decoded ({error}); expected an image: mend or remove it") from error


def _tensor(picture: Image.Image) -> Tensor:
    """(C, H, W), uint8."""
    values = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()
