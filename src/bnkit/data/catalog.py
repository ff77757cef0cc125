"""The data sets that have a name in bnkit. Loads torch only when one is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bnkit.console import stderr_console
from bnkit.data.downloads import PublishedFile
from bnkit.errors import DataError
from bnkit.import_user_function import what_it_is
from bnkit.message_parts import unknown_name

if TYPE_CHECKING:
    from bnkit.data.examples import DataSet


@dataclass(frozen=True)
class DataSource:
    """A named data set.

    Attributes:
        name: What the user types.
        about: One line about it.
        files: The files to download; empty if it is part of bnkit.
        read: Reads it from the cache, downloading missing files.
        digest: The digest of its content, which ``read`` gives the data set; known without reading it.
    """

    name: str
    about: str
    files: tuple[PublishedFile, ...]
    read: Callable[[], DataSet]
    digest: Callable[[], str]


def names() -> tuple[str, ...]:
    """The names of all data sets, the embedded one first."""
    return tuple(DATA_SETS)


def load(name: str) -> DataSet:
    """The data set called ``name``, downloaded if it is not in the cache; or the one at the path ``name``.

    A path is an ``.npz`` file (see ``npz``) or a folder of images by class (see ``image_folder``).

    Raises:
        DataError: If there is none of that name, or its files are corrupt or cannot be downloaded.

    Examples:
        >>> load("digits").input_shape
        (1, 28, 28)
    """
    if name in DATA_SETS:
        return DATA_SETS[name].read()
    path = Path(name).expanduser()
    if path.suffix.lower() == ".npz":
        from bnkit.data import npz

        return npz.read(path)
    if name and path.is_dir():  # an empty name would mean the working directory
        from bnkit.data import image_folder

        return image_folder.read(path)
    more = ", an .npz file, a folder of images by class, or file.py:factory"
    raise DataError(f"{unknown_name('unknown data set', name, DATA_SETS, more)}{what_it_is(name)}")


def _digits() -> DataSet:
    """The embedded digits, 8 × 8 with values 0 to 16, resized to 28 × 28 bytes; a fifth, shuffled once, is the test split."""
    import numpy as np
    import torch
    from torch.nn import functional

    from bnkit.data.examples import DataSet, Examples

    with resources.as_file(resources.files("bnkit.data").joinpath("digits.npz")) as path:
        arrays = np.load(path, allow_pickle=False)
        small, targets = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"]).long()
    enlarged = functional.interpolate(small[:, None].float(), size=(28, 28), mode="bilinear", align_corners=False)
    images = (enlarged * (255 / 16)).round().to(torch.uint8)
    # The file is sorted by writer and cycles through 0 to 9, so neither its end nor every fifth row is a fair test split.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return DataSet(
        "digits",
        _digits_digest(),
        Examples(images[train], targets[train]),
        Examples(images[test], targets[test]),
    )


def _digits_digest() -> str:
    return hashlib.sha256(resources.files("bnkit.data").joinpath("digits.npz").read_bytes()).hexdigest()


def _idx_source(name: str, about: str, address: str, digests: tuple[str, str, str, str]) -> DataSource:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = tuple(
        PublishedFile(f"{name}/{part}-ubyte.gz", f"{address}{part}-ubyte.gz", digest)
        for part, digest in zip(parts, digests, strict=True)
    )

    def digest() -> str:
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def read() -> DataSet:
        from bnkit.data import idx
        from bnkit.data.examples import DataSet, Examples

        paths = [file.fetch() for file in files]
        with stderr_console().status(f"unpacking {name}"):
            arrays = [idx.read(path) for path in paths]
        train, test = (
            Examples(images[:, None], targets.long())
            for images, targets in ((arrays[0], arrays[1]), (arrays[2], arrays[3]))
        )
        return DataSet(name, digest(), train, test)

    return DataSource(name, about, files, read, digest)


_CIFAR10 = PublishedFile(
    "cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
)


def _cifar10() -> DataSet:
    from bnkit.data import cifar
    from bnkit.data.examples import DataSet

    path = _CIFAR10.fetch()
    with stderr_console().status("unpacking cifar10"):
        return DataSet("cifar10", _CIFAR10.sha256, *cifar.read(path))


DATA_SETS: dict[str, DataSource] = {
    source.name: source
    for source in (
        DataSource(
            "digits",
            "1,797 handwritten digits, 8×8 enlarged to 28×28, 10 classes; part of bnkit",
            (),
            _digits,
            _digits_digest,
        ),
        _idx_source(
            "mnist",
            "70,000 handwritten digits, 28×28, 10 classes",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        _idx_source(
            "fashion-mnist",
            "70,000 articles of clothing, 28×28, 10 classes",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        DataSource(
            "cifar10",
            "60,000 photographs, 32×32 in colour, 10 classes",
            (_CIFAR10,),
            _cifar10,
            lambda: _CIFAR10.sha256,
        ),
    )
}
