import subprocess
import sys

import pytest

PROGRAM = """
import resource
import numpy as np
from engine.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
np.ones(4 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(4 << 20)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keep: bool) -> tuple[bool, int]:
    program = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    kept, faults = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
    return kept == "1", int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_is_used_again() -> None:
    kept, faults = _faults(keep=True)
    if not kept:
        pytest.skip("the C library is not glibc")
    _, without = _faults(keep=False)
    assert faults < without / 5
