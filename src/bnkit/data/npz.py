"""Read a data set from one ``.npz`` file: ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnkit.data.examples import IMAGE_CHANNELS, DataSet, Examples
from bnkit.errors import DataError

_NAMES = ("x_train", "y_train", "x_test", "y_test")
# Labels that are strings: how many of them a message quotes.
_SHOWN = 3


def read(path: Path) -> DataSet:
    """The data set in ``path``.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C); other inputs (N, features). Targets are integer class numbers, (N,)
    or (N, 1); or floating values to predict, (N,) or (N, values).

    Raises:
        DataError: If it is not such a file, is truncated, lacks an array, or holds anything but numbers.
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            missing = [name for name in _NAMES if name not in file]
            if missing:
                known = f"only {', '.join(file.files)}" if file.files else "no arrays"
                raise DataError(f"{path} has {known}, no {missing[0]}; expected the arrays {', '.join(_NAMES)}")
            arrays = {name: file[name] for name in _NAMES}
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        TypeError,
    ) as error:
        reason = _reason(error)
        raise DataError(
            f"{path} cannot be read ({reason}); expected an .npz file with the arrays {', '.join(_NAMES)}, of numbers"
        ) from error
    train, test = (
        Examples.of(
            _images(_tensor(arrays[f"x_{part}"], f"x_{part} of {path}", "inputs")),
            _tensor(arrays[f"y_{part}"], f"y_{part} of {path}", "targets"),
            str(path),
        )
        for part in ("train", "test")
    )
    return DataSet(str(path), hashlib.sha256(content).hexdigest(), train, test)


def _reason(error: Exception) -> str:
    """Why a file cannot be read. NumPy advises to unpickle what it does not know, which would run code of the file."""
    if "pickle" in str(error):
        return "it is not an .npz file, or an array in it holds objects"
    return getattr(error, "strerror", None) or str(error)


def _tensor(array: np.ndarray, name: str, what: str) -> Tensor:
    """``array`` as a tensor of its dtype; float64 for larger ones, which PyTorch lacks."""
    if array.dtype.kind not in "uifb":
        known = ", ".join(map(repr, np.unique(array)[:_SHOWN].tolist())) if array.dtype.kind in "US" else ""
        remedy = ": numpy.unique(y, return_inverse=True)[1] numbers names" if what == "targets" else ""
        raise DataError(f"{name} are {what} of {array.dtype}{f', {known}' if known else ''}; expected numbers{remedy}")
    if array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def _images(inputs: Tensor) -> Tensor:
    """``inputs``; images as (N, C, H, W)."""
    if inputs.dim() == 3:
        return inputs[:, None]
    if inputs.dim() == 4 and inputs.shape[3] in IMAGE_CHANNELS and inputs.shape[1] not in IMAGE_CHANNELS:
        return inputs.permute(0, 3, 1, 2).contiguous()
    return inputs
