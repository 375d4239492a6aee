"""Let a process keep the memory that it frees.

By default glibc gives every large array back to the system at once, and the next one is handed out page by
page: a fifth of a worker's time in the kernel, measured where units of 500 spectra are read and scored.
"""

import ctypes
import sys

# Names of malloc.h, with its numbers.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_KEPT = 1 << 30
"""Arrays up to this size [bytes] come from memory that is kept."""


def keep_freed_memory() -> bool:
    """Reuse freed memory in this process instead of returning it; False where the C library is another."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: LARGEST_KEPT, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
