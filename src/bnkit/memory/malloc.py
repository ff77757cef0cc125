"""What the process does with memory: keeping freed blocks instead of returning them to the system."""

from __future__ import annotations

import ctypes
import platform

# glibc, malloc.h: M_TRIM_THRESHOLD and M_MMAP_MAX, the parameters of mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_NEVER_TRIM = 2**31 - 1


def keep_freed_memory() -> bool:
    """Whether the C library now keeps freed memory for the next allocation; it does for the rest of the process.

    glibc requests every block above 128 KiB to 32 MiB from the system and returns it when it is freed, so that each
    training step on the CPU gets new pages, which the kernel clears one by one. Switching that off (``mallopt``:
    ``M_MMAP_MAX=0``, no trimming) makes CPU training faster at the price of a resident size that stays at its peak.
    ``benchmarks/epoch.py`` measures the effect. There is no error and no effect where the C library is not glibc
    (macOS, Windows, musl), nor on memory of a GPU.

    Returns:
        True where it took effect, False where the C library cannot do it.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # mallopt answers 1 when the parameter was taken.
    return bool(mallopt(_MMAP_MAX, 0) == 1 and mallopt(_TRIM_THRESHOLD, _NEVER_TRIM) == 1)
