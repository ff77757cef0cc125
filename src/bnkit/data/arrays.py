"""A data set in one ``.npz`` file: ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnkit.data.examples import DataSet, Examples
from bnkit.errors import DataError

_NAMES = ("x_train", "y_train", "x_test", "y_test")
# Channels that an image may have; where they stand last, as elsewhere, they are moved to the front.
_CHANNELS = (1, 3, 4)


def read(path: Path) -> DataSet:
    """The data set in ``path``.

    Images are (N, H, W), (N, C, H, W) or (N, H, W, C); other inputs (N, features). Bytes count from 0 to 255. Targets
    are class numbers, whole, (N,) or (N, 1); or what is to be predicted, floating, (N,) or (N, values).

    Raises:
        DataError: It is no such file, is cut off, lacks an array, or holds objects (which would have to be unpickled).
    """
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            missing = [name for name in _NAMES if name not in file]
            if missing:
                raise DataError(f"{path} has no {missing[0]}; expected the arrays {', '.join(_NAMES)}")
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
        raise DataError(
            f"{path} cannot be read ({error}); expected an .npz file with the arrays {', '.join(_NAMES)}"
        ) from error
    train, test = (
        Examples(_inputs(path, arrays[f"x_{part}"]), _targets(path, arrays[f"y_{part}"])) for part in ("train", "test")
    )
    return DataSet(str(path), hashlib.sha256(content).hexdigest(), train, test)


def _inputs(path: Path, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "uif" or array.ndim < 2:
        raise DataError(
            f"{path} has inputs of {array.dtype} and shape {array.shape}; expected numbers, (N, ...) with at least one "
            "more dimension"
        )
    # Bytes stay bytes; every other number is taken as it is.
    tensor = torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float32))
    if tensor.dim() == 3:
        return tensor[:, None]
    if tensor.dim() == 4 and tensor.shape[3] in _CHANNELS and tensor.shape[1] not in _CHANNELS:
        return tensor.permute(0, 3, 1, 2).contiguous()
    return tensor


def _targets(path: Path, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "uif" or array.ndim < 1:
        raise DataError(
            f"{path} has targets of {array.dtype} and shape {array.shape}; expected class numbers, (N,), or floating "
            "targets, (N, values)"
        )
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    return torch.from_numpy(array.astype(np.int64))
