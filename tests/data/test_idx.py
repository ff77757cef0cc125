from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnkit.data import idx
from bnkit.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
RAW = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2, 3, 4) + ARRAY.tobytes()


def test_it_reads_what_was_written(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(RAW))
    assert np.array_equal(idx.read(path).numpy(), ARRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be unpacked|begins with"),
        (b"no gzip", "cannot be unpacked"),
        (gzip.compress(b""), "begins with"),
        (gzip.compress(bytes([0, 0, 13, 3]) + RAW[4:]), "expected an IDX file of unsigned bytes"),
        (gzip.compress(RAW[:-1]), "holds 23 values for the shape .2, 3, 4.; expected 24"),
        (gzip.compress(RAW + b"!"), "holds 25 values"),
        (gzip.compress(RAW[:10]), "cut off in its header of 16 bytes; expected 3 sizes"),
    ],
    ids=["empty", "no-gzip", "nothing-in-it", "other-type", "one-too-few", "one-too-many", "cut-header"],
)
def test_what_is_no_such_file_is_named(tmp_path, content, message):
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        idx.read(path)
    assert str(path) in str(caught.value)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(gzip.compress(RAW)) - 1))
def test_cut_off_at_any_byte_it_is_refused(tmp_path, cut):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(RAW)[:cut])
    with pytest.raises(DataError):
        idx.read(path)
