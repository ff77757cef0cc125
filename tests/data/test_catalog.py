from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from bnkit.data import DATA_SETS, catalog, load, names
from bnkit.data.downloads import PublishedFile
from bnkit.errors import DataError


@pytest.mark.slow
def test_digits_are_scikit_learns_enlarged():
    digits = load("digits")
    published = load_digits()
    assert digits.input_shape == (1, 28, 28)
    assert digits.classes == 10
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    images = torch.cat([digits.train.inputs, digits.test.inputs])
    targets = torch.cat([digits.train.targets, digits.test.targets])
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    back = torch.cat([order[359:], order[:359]])
    assert torch.equal(targets, torch.from_numpy(published.target)[back])
    # Enlarging keeps the mean: bilinear interpolation only moves light about.
    theirs = torch.from_numpy(published.images)[back].mean((1, 2)) * (255 / 16)
    torch.testing.assert_close(images.double().mean((1, 2, 3)), theirs, rtol=0.05, atol=1.0)
    assert images.dtype == torch.uint8


def test_every_class_is_in_the_test_part():
    counts = load("digits").test.targets.bincount(minlength=10)
    assert counts.min() >= 25


def test_the_published_digests_are_those_of_the_design():
    assert names() == ("digits", "mnist", "fashion-mnist", "cifar10")
    digests = [file.sha256 for source in DATA_SETS.values() for file in source.files]
    assert len(digests) == len(set(digests)) == 9
    assert digests[0] == "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    assert digests[-2] == "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
    assert digests[-1] == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match="unknown data set 'imagenet'; expected one of digits, mnist, fashion-mnist"):
        load("imagenet")


def test_an_idx_data_set_is_read_from_the_cache(tmp_path, monkeypatch):
    """The way of mnist, with four small files in the place of the published ones."""
    monkeypatch.setenv("BNKIT_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (6, 28, 28)),
        rng.integers(0, 10, 6),
        rng.integers(0, 256, (2, 28, 28)),
        rng.integers(0, 10, 2),
    ]
    digests = []
    (tmp_path / "small").mkdir()
    for name, array in zip(
        ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"), arrays, strict=True
    ):
        content = gzip.compress(
            bytes([0, 0, 8, array.ndim])
            + struct.pack(f">{array.ndim}I", *array.shape)
            + array.astype(np.uint8).tobytes()
        )
        (tmp_path / "small" / f"{name}-ubyte.gz").write_bytes(content)
        digests.append(hashlib.sha256(content).hexdigest())
    source = catalog._idx_source("small", "for a test", "http://127.0.0.1:9/", tuple(digests))
    data = source.read()
    assert np.array_equal(data.train.inputs[:, 0].numpy(), arrays[0])
    assert data.train.targets.tolist() == arrays[1].tolist()
    assert np.array_equal(data.test.inputs[:, 0].numpy(), arrays[2])
    assert data.test.targets.dtype == torch.int64
    assert all(isinstance(file, PublishedFile) for file in source.files)
