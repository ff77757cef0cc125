"""The published format, in a small archive of the same make."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from bnkit.data import cifar
from bnkit.errors import DataError


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, which wrote the published files."""

    dispatch = pickle._Pickler.dispatch.copy()

    def _save(self, value):
        content = value.encode("latin-1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = _save


def _pickled(value):
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def _archive(path, spoil=None):
    generator = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as archive:
        for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
            batch = {"data": generator.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [0, 1, 9, 3]}
            content = _pickled(batch)
            # The published files were written by an old NumPy, whose module had this name.
            content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            if spoil is not None and name == "data_batch_3":
                content = spoil
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_the_parts_as_published(tmp_path):
    train, test = cifar.read(_archive(tmp_path / "c.tar.gz"))
    assert train.inputs.shape == (20, 3, 32, 32)
    assert (train.inputs.dtype, len(test)) == (torch.uint8, 4)
    assert train.targets.tolist() == [0, 1, 9, 3] * 5
    first = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    assert train.inputs[0, 1, 0, :5].tolist() == first[0, 1024:1029].tolist()  # green follows the 1,024 reds


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("broken-in",)


def test_a_pickle_that_names_something_else_is_not_obeyed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _archive(tmp_path / "c.tar.gz", pickle.dumps(_Evil(), protocol=2))
    with pytest.raises(DataError, match=r"it names posix\.mkdir, which an array of bytes does not need"):
        cifar.read(path)
    assert not (tmp_path / "broken-in").exists()


def test_a_truncated_archive_is_named(tmp_path):
    path = _archive(tmp_path / "c.tar.gz")
    content = path.read_bytes()
    for end in range(0, len(content) - 64, 997):
        path.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"c\.tar\.gz cannot be read"):
            cifar.read(path)
