"""Reading and merging the arms of DESI coadds: this project against spender's reader, on identical files.

    python -m benchmarks.arm_merge [--peer-python PYTHON] [--files 2] [--rows 500] [--passes 3]

Both read a coadd with its redrock file into merged flux and ivar on 7781 pixels in one process; both read
local files that the page cache holds. The CPU column is for machines that do other work as well. `--peer-python` is an interpreter that has spender and h5py (default:
this one). Spender also reads RESOLUTION and merges it, in Python loops; that is what its reader does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from engine.fits import read_hdus
from engine.schema import matrix
from engine.sources.desi import IMAGES, DesiSource
from engine.spectra.coadd import Arms, merge_arms
from engine.spectra.grid import CAMERA_SLICES
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task

TARGET_RATIO = 10.0
REPO = Path(__file__).parents[1]


def main() -> None:
    """Make files, time both, compare the numbers, print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--files", type=int, default=2)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), args.files, args.rows)
        num = args.files * args.rows
        ours = best_of(args.passes, lambda: read_files(Path(folder)))
        arms = load_arms(paths)
        merge = best_of(args.passes, lambda: [merge_arms(flux, ivar, mask) for flux, ivar, mask in arms])
        peer = run_peer(args.peer_python, Path(folder) / "peer.npz", args.passes, paths)
        difference, compared = compare(Path(folder))
    print(f"{args.files} coadds x {args.rows} spectra, best of {args.passes} passes, one process, one thread")
    print(f"{'':26}{'spectra/s':>12}{'ratio':>8}{'CPU us/spectrum':>18}{'ratio':>8}")
    for name, (wall, cpu) in {
        "spender prepare_spectra": peer,
        "DesiSource.read": ours,
        "merge_arms alone": merge,
    }.items():
        print(f"{name:26}{num / wall:12.0f}{peer[0] / wall:8.1f}{1e6 * cpu / num:18.0f}{peer[1] / cpu:8.1f}")
    print(f"largest difference where both have a pixel: {difference:.0e} of its noise ({compared} spectra)")
    print(f"target: >= {TARGET_RATIO:.0f}: {'reached' if peer[0] / ours[0] >= TARGET_RATIO else 'MISSED'}")


def make_files(folder: Path, num_files: int, num_rows: int) -> list[Path]:
    """Synthetic coadds with RESOLUTION; spender needs the targeting column of an EDR survey."""
    config = SynthesizeConfig(
        num_spectra=num_files * num_rows, spectra_per_file=num_rows, survey="sv3", layout="flat",
        with_resolution=True, seed=7,
    )  # fmt: skip
    for index in range(task_count(config)):
        write_task(config, index, str(folder), Storage())
    paths = sorted(folder.rglob("coadd-*.fits"))
    for path in paths:
        _add_target_column(path)
    return paths


def _add_target_column(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        table = Table(hdus["FIBERMAP"].data)
        table["SV3_DESI_TARGET"] = np.ones(len(table), np.int64)
        hdus["FIBERMAP"] = fits.BinTableHDU(table, hdus["FIBERMAP"].header, name="FIBERMAP")


def best_of(num_passes: int, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of CPU time, of the fastest pass."""
    times = []
    for _ in range(num_passes):
        begin, cpu = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - begin, time.process_time() - cpu))
    return min(times)


def read_files(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Flux and ivar by TARGETID."""
    source = DesiSource(str(folder))
    found = {}
    for unit in source.plan():
        rows = source.read(unit).rows
        flux, ivar = matrix(rows, "flux"), matrix(rows, "ivar")
        found |= {key: (flux[i], ivar[i]) for i, key in enumerate(rows["targetid"].to_pylist())}
    return found


def load_arms(paths: list[Path]) -> list[list[Arms]]:
    """Flux, ivar and mask by camera of each file."""
    arms = []
    for path in paths:
        images = read_hdus(Storage(), str(path), path.stat().st_size, IMAGES, {}).images
        arms.append(
            [{c: images[f"{c.upper()}_{q}"] for c in CAMERA_SLICES} for q in ("FLUX", "IVAR", "MASK")]
        )
    return arms


def run_peer(python: str, out: Path, num_passes: int, paths: list[Path]) -> tuple[float, float]:
    """Seconds, by the clock and of CPU, of spender's fastest pass."""
    script = REPO / "benchmarks/peers/spender_reader.py"
    command = [python, str(script), str(out), str(num_passes), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"spender did not run; give --peer-python with spender and h5py.\n{done.stderr[-2000:]}"
        )
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu


def compare(folder: Path) -> tuple[float, int]:
    """Largest |difference| of flux in units of its noise, and how many spectra both kept."""
    theirs, ours = np.load(folder / "peer.npz"), read_files(folder)
    worst, num = 0.0, 0
    for key, flux, ivar in zip(theirs["targetid"].tolist(), theirs["flux"], theirs["ivar"], strict=True):
        good = ivar > 0
        if key in ours and good.any():
            worst = max(worst, float((np.abs(flux - ours[key][0]) * np.sqrt(ivar))[good].max()))
            num += 1
    return worst, num


if __name__ == "__main__":
    main()
