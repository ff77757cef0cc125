"""Read the IDX format, in which MNIST and Fashion-MNIST are published.

Two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each size as a big-endian
32-bit integer, then the values (http://yann.lecun.com/exdb/mnist, "The IDX file format"). Not read by idx2numpy, which would
save a dozen lines: it does not say what is missing from a damaged file, only that NumPy cannot reshape it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnkit.errors import DataError

_UNSIGNED_BYTE = 8


def read(path: Path) -> Tensor:
    """The array in a gzipped IDX file of unsigned bytes, as uint8.

    Raises:
        DataError: If it is not such a file, or is truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); expected a gzipped IDX file: fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path} begins with {content[:4]!r}; expected an IDX file of unsigned bytes: fetch it again")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(
            f"{path} is cut off in its header of {header} bytes; expected {dimensions} sizes: fetch it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} holds {len(content) - header} values for the shape {shape}; expected {math.prod(shape)}: fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy())
