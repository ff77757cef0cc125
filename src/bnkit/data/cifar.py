"""Read CIFAR-10's archive of pickles, with an unpickler that allows only NumPy arrays; torchvision's allows any code."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnkit.data.examples import Examples
from bnkit.errors import DataError

_FOLDER = "cifar-10-batches-py"
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
# The globals in the published files: how NumPy pickles an array of bytes.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read(path: Path) -> tuple[Examples, Examples]:
    """The training and the test split in the archive ``path``: images (N, 3, 32, 32), uint8; class numbers, int64.

    Raises:
        DataError: If it is not such an archive, or pickles anything but arrays.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            train = [_batch(archive, name) for name in _TRAIN]
            test = _batch(archive, "test_batch")
    except (OSError, EOFError, KeyError, ValueError, TypeError, tarfile.TarError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); expected CIFAR-10's published archive: fetch it again"
        ) from error
    images, targets = zip(*train, strict=True)
    return Examples(torch.cat(images), torch.cat(targets)), Examples(*test)


def _batch(archive: tarfile.TarFile, name: str) -> tuple[Tensor, Tensor]:
    member = archive.extractfile(f"{_FOLDER}/{name}")
    if member is None:
        raise KeyError(name)
    content = _Unpickler(io.BytesIO(member.read()), encoding="bytes").load()
    images = torch.from_numpy(np.array(content[b"data"], dtype=np.uint8)).view(-1, 3, 32, 32)
    return images, torch.tensor(content[b"labels"], dtype=torch.int64)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what the format needs."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which an array of bytes does not need")
        return _ALLOWED[module, name]
