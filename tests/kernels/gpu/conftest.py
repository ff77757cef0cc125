"""What the tests of this folder share."""

from __future__ import annotations

from tests.cases.kernels import INTERPRETED

# Through Triton's interpreter, which has to be there before Triton is imported: `gpu/test_kernel.py` starts it.
collect_ignore = [] if INTERPRETED else ["test_strategies.py"]
