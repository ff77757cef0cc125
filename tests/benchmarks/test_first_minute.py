"""What the benchmark of the first minute counts."""

from __future__ import annotations

import sys

import pytest

from tests.child_processes import run

# A process that starts another, which computes for half a second of a processor, and ends without waiting for it.
_LEAVES_AN_ORPHAN = r"""
import subprocess, sys
busy = "import time\nwhile time.process_time() < 0.5: pass"
subprocess.Popen([sys.executable, "-c", busy])
"""
_MEASURES = f"""
import sys
from pathlib import Path
from benchmarks.first_minute import adopt_orphans, take
adopt_orphans()
print(take((sys.executable, "-c", {_LEAVES_AN_ORPHAN!r}), Path(sys.argv[1])).processor)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_a_process_that_outlives_its_parent_counts(tmp_path):
    done = run([sys.executable, "-c", _MEASURES, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert 0.5 <= float(done.stdout) < 5
