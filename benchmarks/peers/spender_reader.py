"""Time spender's reader of DESI coadds: `DESI.prepare_spectra`, file by file. Run with spender's Python.

Prints one line of JSON; writes the spectra of the last pass to an npz file for the comparison. Imports
nothing of this project, so that spender may live in an environment of its own.
"""

import contextlib
import json
import sys
import time

import numpy as np
import torch
from spender.data.desi import DESI


def main(out: str, num_passes: int, paths: list[str]) -> None:
    """Read all files `num_passes` times; the fastest pass counts, for both sides."""
    torch.set_num_threads(1)
    best, kept = (float("inf"), float("inf")), []
    for _ in range(num_passes):
        begin, cpu = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            kept = [DESI.prepare_spectra(path) for path in paths]
        best = min(best, (time.perf_counter() - begin, time.process_time() - cpu))
    spec, weight, _, targetid, norm, _ = zip(*kept, strict=True)
    scale = np.concatenate(norm)[:, None]
    np.savez(
        out,
        flux=np.concatenate(spec) * scale,
        ivar=np.concatenate(weight) / np.where(scale > 0, scale, np.inf) ** 2,
        targetid=np.concatenate(targetid),
    )
    print(json.dumps(best))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
