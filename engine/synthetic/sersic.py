"""Write the Sersic set of Holzschuh et al. (2022), or a smaller one: FITS files of images with their parameters.

A file has a table PARAMETERS and a cube IMAGES [N, S, S] (float32, order y, x), row by row the same objects; source
`sersic` reads it. Files are made apart, each from its own seed, image after image: memory is that of one image.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy.io import fits
from pydantic import Field

from engine.column import Column
from engine.config import Config
from engine.fitsdata import padded
from engine.schema import conform
from engine.storage import Storage
from engine.synthetic.sersic_render import (
    EXPOSURE_S,
    MAGNITUDE,
    SIZE,
    TOTAL,
    ZERO_POINT_MAG,
    SersicParameters,
    draw_parameters,
    pixel_arcsec,
    render,
)
from engine.synthetic.truth import write_table

__all__ = ["SersicConfig", "describe", "task_count", "write_task", "write_truth"]

UNIT = "ct s / pixel"
"""Counts in a pixel of 0.04 arcsec times seconds; see `engine.synthetic.sersic_render`."""

TRUTH_COLUMNS: tuple[Column, ...] = (
    Column("object_id", "int64", "Number of the galaxy in the set, from 0", ucd="meta.id;meta.main"),
    Column("path", "string", "File below the release's root"),
    Column("row", "int32", "Row in the file, from 0"),
    Column("x_arcsec", "float64", "Centre right of the middle of the image", "arcsec"),
    Column("y_arcsec", "float64", "Centre above the middle of the image", "arcsec"),
    Column("half_light_radius_arcsec", "float64", "Circularised half-light radius", "arcsec"),
    Column("sersic_n", "float64", "Sersic index"),
    Column("axis_ratio", "float64", "Minor to major axis"),
    Column("position_angle_deg", "float64", "Major axis from +x towards +y", "deg"),
    Column("magnitude", "float64", "AB magnitude", "mag"),
    Column("total", "float64", "Integral of brightness before the exposure time, the seed's label", "ct arcsec2 / pixel"),
)  # fmt: skip
"""One row a galaxy."""


class SersicConfig(Config):
    """Size of a set; its parameters are those of the paper (`engine.synthetic.sersic_render.RANGES`)."""

    num_images: int = Field(default=50_000, ge=1)
    """Galaxies."""
    size: int = Field(default=SIZE, ge=8, le=1024)
    """Pixels a side of the field of 10.24 arcsec: 256 as published; 64 and 128 for machines without a GPU."""
    images_per_file: int = Field(default=250, ge=1, le=10_000)
    """Galaxies of a file (66 MB at 256 pixels); the last one holds what is left."""
    seed: int = Field(default=1, ge=0)
    """The same seed, and the same `images_per_file`, give the same files, byte for byte."""


def task_count(config: SersicConfig) -> int:
    """Return the number of tasks: one a file."""
    return -(-config.num_images // config.images_per_file)


def describe(config: SersicConfig, tasks: int) -> dict[str, int]:
    """Say what the first so many tasks write."""
    images = min(tasks * config.images_per_file, config.num_images)
    return {"files": tasks, "images": images, "pixels_a_side": config.size}


def file_name(task: int) -> str:
    """Name of the file of a task, below the root."""
    return f"sersic-{task:05d}.fits"


def write_task(config: SersicConfig, task: int, uri: str, storage: Storage) -> pa.Table:
    """Write one file.

    Parameters
    ----------
    config
        The set.
    task
        0 to `task_count(config)` - 1.
    uri
        Root of the set.
    storage
        Where to write. An existing file is replaced.

    Returns
    -------
    pyarrow.Table
        Truth of its galaxies, columns `TRUTH_COLUMNS`.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    if not 0 <= task < task_count(config):
        raise ValueError(f"task {task} of {task_count(config)}")
    first = task * config.images_per_file
    num = min(config.images_per_file, config.num_images - first)
    parameters = draw_parameters(num, np.random.default_rng([config.seed, task]))
    ids = np.arange(first, first + num)
    images = (
        render(SersicParameters(*(v[i : i + 1] for v in parameters)), config.size)[0] for i in range(num)
    )
    shape = (num, config.size, config.size)
    with storage.writing(Storage.join(uri, file_name(task))) as path:
        write_cube(Path(path), shape, images, _columns(ids, parameters), _cards(config))
    return _truth(task, ids, parameters)


def write_cube(
    path: Path,
    shape: tuple[int, ...],
    images: Iterable[np.ndarray],
    columns: dict[str, np.ndarray],
    cards: dict[str, str | float],
) -> None:
    """Write images and their parameters in the layout that source `sersic` reads, image after image.

    Parameters
    ----------
    path
        Local file; replaced if it exists.
    shape
        Of the cube: [N, S, S] or [N, C, S, S].
    images
        N of them, [S, S] or [C, S, S].
    columns
        Values [N] by name as in `engine.images.galaxies`, in capitals in the file.
    cards
        Keywords of the IMAGES header.

    Raises
    ------
    ValueError
        If there are more or fewer images than the shape says, or one of another shape.
    """
    num = size = 0
    with path.open("wb") as file:
        file.write(_headers(shape, columns, cards))
        for num, image in enumerate(images, 1):
            if image.shape != shape[1:]:
                raise ValueError(f"image {num - 1} has shape {image.shape}, the cube {shape[1:]}")
            size += file.write(image.astype(">f4").tobytes())
        file.write(bytes(padded(size) - size))
    if num != shape[0]:
        raise ValueError(f"{num} images for a cube of {shape[0]}")


def _headers(shape: tuple[int, ...], columns: dict[str, np.ndarray], cards: dict[str, str | float]) -> bytes:
    """Primary header, the table, and the header of the cube."""
    formats = {"i": "K", "f": "D"}
    fields = [fits.Column(k.upper(), formats[v.dtype.kind], array=v) for k, v in columns.items()]
    begin = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(fields, name="PARAMETERS")]).writeto(begin)
    first = {"XTENSION": "IMAGE", "BITPIX": -32, "NAXIS": len(shape)}
    sides = {f"NAXIS{axis + 1}": side for axis, side in enumerate(shape[::-1])}
    header = fits.Header((first | sides | {"PCOUNT": 0, "GCOUNT": 1, "EXTNAME": "IMAGES"} | cards).items())
    return begin.getvalue() + header.tostring().encode("ascii")


def _columns(ids: np.ndarray, parameters: SersicParameters) -> dict[str, np.ndarray]:
    return {"object_id": ids, **parameters._asdict(), "magnitude": np.full(len(ids), MAGNITUDE)}


def _cards(config: SersicConfig) -> dict[str, str | float]:
    return {
        "BUNIT": UNIT, "PIXSCALE": pixel_arcsec(config.size), "EXPTIME": EXPOSURE_S, "MAGZERO": ZERO_POINT_MAG,
        "SEED": config.seed,
    }  # fmt: skip


def _truth(task: int, ids: np.ndarray, parameters: SersicParameters) -> pa.Table:
    num = len(ids)
    columns = {
        **_columns(ids, parameters),
        "path": pa.repeat(pa.scalar(file_name(task)), num),
        "row": np.arange(num, dtype=np.int32),
        "total": np.full(num, TOTAL),
    }
    return conform(pa.table(columns), TRUTH_COLUMNS, "truth of a Sersic set")


def write_truth(truth: Iterable[pa.Table], uri: str, storage: Storage) -> str:
    """Write what the tasks returned, in their order, as `{uri}/truth.parquet`; return its URI."""
    return write_table(truth, TRUTH_COLUMNS, uri, storage)
