"""Read a folder of images with a sub-folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bnkit.console import track_progress
from bnkit.data.decoding import decode, stack_images
from bnkit.data.examples import DataSet, Examples
from bnkit.errors import DataError

_EXTENSIONS = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".avif", ".pbm", ".pgm", ".ppm",
    ".pnm", ".tif", ".tiff", ".tga", ".jp2",
})  # fmt: skip
# Folder names of the two splits, in upper or lower case; the first that exists is used.
_TRAIN, _TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
# Files and folders added by operating systems and archivers.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


@dataclass(frozen=True)
class _ImageSplit:
    """The image files of a split by class, in the order of their names, and other files."""

    folder: Path
    images: dict[str, list[Path]]
    others: list[Path]


def read(folder: Path) -> DataSet:
    """The data set in ``folder``, one class a sub-folder, the classes numbered in the order of their names.

    ``folder/train`` and ``folder/test`` (or ``training``, and ``val`` if there is no ``test``) hold the two splits;
    without them, a fifth of all images, shuffled once, is the test split. Shape and dtype are those of ``stack_images``.

    Raises:
        DataError: If there are no images, one cannot be decoded or is in the wrong folder, they differ in size or kind, or
            the splits have different classes.
    """
    try:
        splits, notes = _find_splits(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}); expected a folder of images by class") from error
    if len(splits) == 2:
        odd = splits[0].images.keys() ^ splits[1].images.keys()
        if odd:
            name = min(odd)
            has, lacks = sorted(splits, key=lambda part: name not in part.images)
            raise DataError(
                f"{folder} has the class {name} in one of train and test only: {has.folder / name} has images, "
                f"{lacks.folder / name} has none; expected the same classes in both"
            )
    listed = [
        (number, file)
        for part in splits
        for number, name in enumerate(sorted(part.images))
        for file in part.images[name]
    ]
    files = [file for _, file in listed]
    pictures = [decode(file) for file in track_progress(files, f"reading {folder}")]
    images = stack_images(pictures, files, folder)
    targets = torch.tensor([number for number, _ in listed])
    digest = hashlib.sha256(images.numpy().tobytes() + targets.numpy().tobytes()).hexdigest()
    train, test = _rows(splits, len(listed))
    return DataSet(
        str(folder),
        digest,
        Examples(images[train], targets[train]),
        Examples(images[test], targets[test]),
        (*notes, *_skipped_files(folder, splits)),
    )


def _rows(splits: Sequence[_ImageSplit], count: int) -> tuple[Tensor, Tensor]:
    """The indices of the training and the test images."""
    if len(splits) == 2:
        size = sum(len(files) for files in splits[0].images.values())
        return torch.arange(size), torch.arange(size, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[count // 5 :], order[: count // 5]


def _find_splits(folder: Path) -> tuple[list[_ImageSplit], list[str]]:
    """The training and the test split, or one for all images; and notes on folders that are not used."""
    folders = {
        entry.name.lower(): entry for entry in sorted(folder.iterdir()) if _is_user_file(entry) and entry.is_dir()
    }
    train, test = (next((folders[name] for name in names if name in folders), None) for names in (_TRAIN, _TEST))
    if train is None or test is None:
        return [_read_split(folder)], []
    _refuse_outside_classes(folder)
    unused = [entry for entry in folders.values() if entry not in (train, test) and any(_images_below(entry))]
    notes = [f"{entry} is not used: {train.name} trains, and {test.name} tests" for entry in unused]
    return [_read_split(train), _read_split(test)], notes


def _read_split(folder: Path) -> _ImageSplit:
    _refuse_outside_classes(folder)
    entries = [entry for entry in sorted(folder.iterdir()) if _is_user_file(entry)]
    images: dict[str, list[Path]] = {}
    others: list[Path] = []
    for class_folder in entries:
        if not class_folder.is_dir():
            continue
        for entry in sorted(class_folder.iterdir()):
            deeper = next(_images_below(entry), None) if entry.is_dir() else None
            if deeper is not None:
                raise DataError(
                    f"{deeper} lies deeper than the folder of a class, {class_folder}; expected the images of a class in its folder "
                    f"itself, and {folder} to hold the classes, or train and test"
                )
            if _is_image(entry) and not entry.is_dir():
                images.setdefault(class_folder.name, []).append(entry)
            elif _is_user_file(entry) and not entry.is_dir():
                others.append(entry)
    if len(images) < 2:
        raise DataError(
            f"{folder} has {len(images)} sub-folders with images; expected one for each class, two or more, or train "
            "and test with those in each"
        )
    return _ImageSplit(folder, images, others)


def _refuse_outside_classes(folder: Path) -> None:
    outside = _images_in(folder)
    if outside:
        raise DataError(
            f"{outside[0]} lies next to the folders of the classes; expected each image in the folder of its class"
        )


def _images_in(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if _is_image(entry) and not entry.is_dir()]


def _images_below(folder: Path) -> Iterator[Path]:
    """The images in ``folder`` and deeper."""
    if not _is_user_file(folder):
        return
    yield from _images_in(folder)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():  # a link may form a cycle
            yield from _images_below(entry)


def _is_image(path: Path) -> bool:
    return _is_user_file(path) and path.suffix.lower() in _EXTENSIONS


def _is_user_file(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower() not in _SYSTEM_FILES


def _skipped_files(folder: Path, splits: Sequence[_ImageSplit]) -> list[str]:
    others = [file for part in splits for file in part.others]
    if not others:
        return []
    files = "1 file that is not an image was" if len(others) == 1 else f"{len(others)} files that are not images were"
    return [f"{files} left out of {folder}: {others[0].relative_to(folder)}{', …' if len(others) > 1 else ''}"]
