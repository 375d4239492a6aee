"""Cutouts of NIRCam mosaics: this project against astropy's Cutout2D, on identical files, and memory.

    python -m benchmarks.cutouts [--side 4000] [--sources 3000] [--processes 2] [--passes 3] [--memory-sides 2000,20000]
                                 [--folder FOLDER]

Ours reads strips of i2d mosaics in six bands by `NircamSource`, science, error and mask of 96 pixels with WCS, and
writes them as Parquet; `--processes` strips at a time, as Ray's workers do. The peer reads the same mosaics by
astropy (memory-mapped), one `Cutout2D(mode="partial")` with WCS for each source, band and plane (SCI, ERR), masks
them and writes the same columns of pixels, by our writer and with as many processes. Every process has one thread;
both find the files in the page cache, and what they write need not have reached the disk. A line of its own is the
engine's sink: the same rows sorted, checksummed, flushed to the disk (so --folder decides), and recorded in a ledger.

Memory is the peak of one process (VmHWM) that reads and writes all strips of a mosaic of one band (SCI, ERR) one
after the other, its sources at one density.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from engine.allocator import keep_freed_memory
from engine.commit import parquet
from engine.commit.fragments import FragmentSink
from engine.images.bands import BANDS
from engine.schema import list_array, packed_array
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import CatalogueConfig, NircamConfig
from engine.storage import StorageOptions
from engine.units import Unit

TARGET = 10_000
SIZE = 96
STEP = 0.03 / 3600


def main() -> None:
    """Write mosaics, time both, compare the numbers, print the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--sources", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--memory-sides", default="2000,20000")
    parser.add_argument("--folder", default=None, help="where mosaics and Parquet files lie for a while")
    args = parser.parse_args()
    for side in [int(side) for side in args.memory_sides.split(",") if side]:
        print(f"{side:6d} x {side}: {measure_memory(side, args.folder)}", flush=True)
    if not args.sources:
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        make_field(root / "field", args.side, args.sources, BANDS)
        compare(root)
        times = {
            "astropy Cutout2D": best_of(args.passes, lambda: run(peer_strip, root, args.processes)),
            "NircamSource.read + Parquet": best_of(args.passes, lambda: run(our_strip, root, args.processes)),
            "NircamSource.read alone": best_of(args.passes, lambda: run(our_read, root, args.processes)),
            "NircamSource.read + FragmentSink": best_of(
                args.passes, lambda: run(our_fragment, root, args.processes)
            ),
        }
    report(times, args.sources * len(BANDS), args.processes)


def report(times: dict[str, tuple[float, float]], num: int, processes: int) -> None:
    """Print cutouts a second, of one band each."""
    print(f"{num} cutouts of one band (science, error, mask), {processes} processes")
    print(f"{'':34}{'cutouts/s and band':>20}{'ratio':>8}{'CPU us/cutout':>16}")
    peer = times["astropy Cutout2D"]
    for name, (wall, cpu) in times.items():
        print(f"{name:34}{num / wall:20.0f}{peer[0] / wall:8.1f}{1e6 * cpu / num:16.0f}")
    best = num / times["NircamSource.read + Parquet"][0]
    print(f"target: >= {TARGET} written: {'reached' if best >= TARGET else 'MISSED'}")


def make_field(
    folder: Path, side: int, num: int, bands: tuple[str, ...], planes: tuple[str, ...] = ("SCI", "ERR", "WHT")
) -> None:
    """i2d mosaics of noise, written a piece at a time, and a catalogue of random positions."""
    folder.mkdir()
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 214.9, "CRVAL2": 52.8, "CRPIX1": side / 2,
         "CRPIX2": side / 2, "CD1_1": -STEP, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": STEP, "CUNIT1": "deg",
         "CUNIT2": "deg", "BUNIT": "MJy/sr", "PIXAR_SR": float(np.radians(STEP) ** 2)}
    )  # fmt: skip
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(min(side, 500), side)).astype(">f4")
    for band in bands:
        with (folder / f"hlsp_noise_nircam_field_{band}_i2d.fits").open("wb") as file:
            file.write(fits.PrimaryHDU().header.tostring().encode())
            for name in planes:
                shape = fits.Header({"XTENSION": "IMAGE", "BITPIX": -32, "NAXIS": 2, "NAXIS1": side, "NAXIS2": side,
                                     "PCOUNT": 0, "GCOUNT": 1, "EXTNAME": name})  # fmt: skip
                shape.update(header)
                file.write(shape.tostring().encode())
                for start in range(0, side, len(noise)):
                    rows = noise[: side - start]
                    file.write((rows if name == "SCI" else np.ones_like(rows)).tobytes())
                file.write(bytes(-(side * side * 4) % 2880))
    x, y = rng.uniform(0, side - 1, (2, num))
    ra, dec = WCS(header).wcs_pix2world(x, y, 0)
    pq.write_table(pa.table({"id": np.arange(num), "ra": ra, "dec": dec}), folder / "sources.parquet")


def source(root: Path, bands: tuple[str, ...] = BANDS) -> NircamSource:
    """Our source of the field, cutting what its catalogue has."""
    catalogue = CatalogueConfig(uri=str(root / "field" / "sources.parquet"), id="id")
    config = NircamConfig(bands=bands, size=SIZE, catalogue=catalogue)
    return NircamSource(str(root / "field"), config=config)


def our_read(task: tuple[Path, Unit]) -> None:
    """Read a strip."""
    source(task[0]).read(task[1])


def our_strip(task: tuple[Path, Unit]) -> None:
    """Read a strip and write its rows."""
    root, unit = task
    write(source(root).read(unit).rows, root / f"ours-{unit.key}.parquet")


def our_fragment(task: tuple[Path, Unit]) -> None:
    """Read a strip and hand its rows to the sink of `ingest`, which leaves a file and a record."""
    root, unit = task
    rows = source(root).read(unit)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        columns = source(root).columns
        record = FragmentSink(folder, StorageOptions(), columns).write(replace(unit, id="unit"), rows)
        assert record.rows == rows.rows.num_rows


def write(rows: pa.Table, path: Path) -> None:
    """Write as the engine's sink does, but for order, checksum and the flush to the disk."""
    parquet.write(rows, str(path))


def peer_strip(task: tuple[Path, Unit]) -> None:
    """Cut the sources of a strip by Cutout2D and write pixels, errors, masks and WCS."""
    root, unit = task
    start, stop = (int(part) for part in unit.key.rpartition("-y")[2].split("-"))
    table = pq.read_table(root / "field" / "sources.parquet").to_pydict()
    with fits.open(root / "field" / f"hlsp_noise_nircam_field_{BANDS[0]}_i2d.fits") as hdus:
        wcs = WCS(hdus["SCI"].header)
    x, y = wcs.wcs_world2pix(table["ra"], table["dec"], 0)
    mine = np.flatnonzero((np.floor(y + 0.5) >= start) & (np.floor(y + 0.5) < stop))
    science, error = (np.zeros((mine.size, len(BANDS), SIZE, SIZE), np.float32) for _ in range(2))
    crpix = np.zeros((mine.size, 2))
    for b, band in enumerate(BANDS):
        with fits.open(root / "field" / f"hlsp_noise_nircam_field_{band}_i2d.fits") as hdus:
            factor = 1e15 * hdus["SCI"].header["PIXAR_SR"]
            for name, out in (("SCI", science), ("ERR", error)):
                image = hdus[name].data
                for i, k in enumerate(mine):
                    at = (np.floor(x[k] + 0.5) - 0.5, np.floor(y[k] + 0.5) - 0.5)
                    cutout = Cutout2D(image, at, SIZE, wcs, mode="partial", fill_value=np.nan)
                    out[i, b] = factor * cutout.data
                    crpix[i] = cutout.wcs.wcs.crpix
    mask = ~(np.isfinite(science) & (error > 0))
    pixels = {"science": np.where(mask, 0, science), "error": np.where(mask, 0, error), "mask": mask}
    columns = {name: packed_array(values.reshape(mine.size, -1)) for name, values in pixels.items()}
    rows = pa.table(
        {"object_id": pa.array(np.array(table["id"])[mine]), "crpix": list_array(crpix), **columns}
    )
    write(rows, root / f"peer-{unit.key}.parquet")


def run(work: Callable[[tuple[Path, Unit]], None], root: Path, processes: int) -> None:
    """Do all strips, some at a time."""
    tasks = [(root, unit) for unit in source(root).plan()]
    with multiprocessing.get_context("fork").Pool(processes, keep_freed_memory) as pool:
        pool.map(work, tasks, chunksize=1)


def best_of(num_passes: int, work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of CPU time of the children, of the fastest pass."""
    times = []
    for _ in range(num_passes):
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        work()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((time.perf_counter() - begin, cpu))
    return min(times)


def compare(root: Path) -> None:
    """Both cut the same pixels."""
    unit = next(source(root).plan())
    our_strip((root, unit))
    peer_strip((root, unit))
    ours, theirs = (
        pq.read_table(root / f"{who}-{unit.key}.parquet").sort_by("object_id") for who in ("ours", "peer")
    )
    for name in ("science", "error"):
        values = [np.frombuffer(b"".join(t[name].to_pylist()), np.float32) for t in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-5)
    print(f"equal to Cutout2D on {ours.num_rows} sources of a strip")


def measure_memory(side: int, parent: str | None) -> str:
    """Peak memory of a process that reads and writes all strips of a mosaic of one band."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        root = Path(folder)
        make_field(root / "field", side, round(side**2 / 4e6 * 100), BANDS[-1:], ("SCI", "ERR"))
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        process = context.Process(target=_read_all, args=(root, queue))
        process.start()
        strips, rows, before, peak = queue.get()
        process.join()
    return f"{strips} strips, {rows} sources: {peak:.0f} MiB at most, {before:.0f} MiB before the first"


def _read_all(root: Path, queue: "multiprocessing.SimpleQueue[tuple[int, int, float, float]]") -> None:
    units = list(source(root, BANDS[-1:]).plan())
    before, rows = _peak(), 0
    for unit in units:
        table = source(root, BANDS[-1:]).read(unit).rows
        write(table, root / "strip.parquet")
        rows += table.num_rows
    queue.put((len(units), rows, before, _peak()))


def _peak() -> float:
    """VmHWM [MiB]; ru_maxrss would count the parent before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
