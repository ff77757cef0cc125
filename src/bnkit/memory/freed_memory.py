"""Make the C library keep freed memory instead of returning it to the system."""

from __future__ import annotations

import ctypes
import platform

# glibc, malloc.h: M_TRIM_THRESHOLD and M_MMAP_MAX, the parameters of mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_NEVER_TRIM = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later allocations, for the rest of the process; returns whether it does.

    glibc requests large blocks (above 128 KiB to 32 MiB) from the system and returns them when they are freed, so each
    training step on the CPU gets new pages, which the kernel must clear. Turning this off (``mallopt``:
    ``M_MMAP_MAX=0``, no trimming) makes CPU training faster, but the resident size stays at its peak.
    ``benchmarks/epoch.py`` measures the effect. With other C libraries (macOS, Windows, musl) the call does nothing;
    GPU memory is not affected.

    Returns:
        True if it took effect, False if the C library does not support it.

    Examples:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # mallopt returns 1 on success.
    return bool(mallopt(_MMAP_MAX, 0) == 1 and mallopt(_TRIM_THRESHOLD, _NEVER_TRIM) == 1)
