"""Write synthetic NIRCam mosaics in the real file layouts, channel by channel, each from its own seeds.

Tasks do not depend on each other: they may be done in any order, anywhere, again. Memory is that of a strip.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.schema import conform, empty_table, list_array
from engine.storage import Storage
from engine.synthetic.field import layout
from engine.synthetic.field.bands import BANDS, GROUPS, REFERENCE, FloatArray, magnitudes
from engine.synthetic.field.config import (
    ARTEFACTS,
    MAX_DISK_BULGE,
    MIN_SPHEROID_BULGE,
    PIXEL_ARCSEC,
    TRUTH_COLUMNS,
    FieldConfig,
)
from engine.synthetic.field.cosmos import Stamps
from engine.synthetic.field.galaxies import BULGE, NUM_PARTS
from engine.synthetic.field.mosaic import Strip, channel_grid, field_strips
from engine.synthetic.field.population import row_sources, rows_of_tiles
from engine.synthetic.field.psf import load_psfs
from engine.synthetic.field.sources import Profile, Source, half_light_radius
from engine.synthetic.truth import write_table

__all__ = [
    "FieldConfig",
    "Mosaic",
    "describe",
    "field_truth",
    "simulate_field",
    "task_count",
    "write_task",
    "write_truth",
]


@dataclass(frozen=True, slots=True)
class Mosaic:
    """One band of a small field in memory, float32 [height, width] nJy/pixel; `covered` bool."""

    noiseless: FloatArray
    science: FloatArray
    error: FloatArray
    covered: np.ndarray
    pixel_arcsec: float


def task_count(config: FieldConfig) -> int:
    """Return the number of tasks: one a field and channel."""
    return config.num_fields * len(GROUPS)


def describe(config: FieldConfig, tasks: int) -> dict[str, int]:
    """Say what the first so many tasks write."""
    mosaics = tasks * len(BANDS) // len(GROUPS)
    return {
        "fields": -(-tasks // len(GROUPS)),
        "mosaics": mosaics,
        "pixels": config.width_px * config.height_px,
    }


def write_task(config: FieldConfig, task: int, uri: str, storage: Storage) -> pa.Table:
    """Write the mosaics of one channel (three bands, which share their pixels) of one field.

    Parameters
    ----------
    config
        The fields.
    task
        0 to `task_count(config)` - 1.
    uri
        Root of the fields.
    storage
        Where to write. Existing files are replaced.

    Returns
    -------
    pyarrow.Table
        Truth of the field, columns `TRUTH_COLUMNS`; without rows for all channels but the first.

    Raises
    ------
    ValueError
        If there is no such task.
    """
    if not 0 <= task < task_count(config):
        raise ValueError(f"task {task} of {task_count(config)}")
    index, channel = divmod(task, len(GROUPS))
    _write_channel(config, index, channel, uri, storage)
    return field_truth(config, index) if channel == 0 else empty_table(TRUTH_COLUMNS)


def _write_channel(config: FieldConfig, index: int, channel: int, uri: str, storage: Storage) -> None:
    """Write the files of a channel, all at the same time, strip after strip."""
    grid = channel_grid(config, channel)
    files: dict[tuple[int, str], layout.MosaicFile] = {}
    with ExitStack() as stack:
        for band in grid.bands:
            names = layout.file_names(config, index, band)
            for kind, header in layout.headers(config, index, band, grid).items():
                path = stack.enter_context(storage.writing(Storage.join(uri, names[kind])))
                files[band, kind] = stack.enter_context(layout.MosaicFile(Path(path), header))
        for row, band, strip in _strips(config, index, channel, storage):
            if config.layout == "stsci":
                for plane, values in enumerate(layout.stsci_planes(config, band, strip, grid).values()):
                    files[band, "i2d"].write_rows(plane, row, values)
            else:
                for kind, values in layout.dja_planes(band, strip, grid).items():
                    files[band, kind].write_rows(0, row, values)


def _strips(
    config: FieldConfig, index: int, channel: int, storage: Storage
) -> Iterator[tuple[int, int, Strip]]:
    return field_strips(config, index, channel, load_psfs(config.psf_uri, storage), _stamps(config))


def _stamps(config: FieldConfig) -> Stamps | None:
    return Stamps(config.cosmos_uri) if config.cosmos_uri else None


def simulate_field(config: FieldConfig, index: int = 0, storage: Storage | None = None) -> dict[str, Mosaic]:
    """Return the mosaics of a field by band, for fields that fit into memory; the same that files hold."""
    mosaics = {}
    for channel, names in enumerate(GROUPS):
        parts: dict[str, list[Strip]] = {name: [] for name in names}
        for _, band, strip in _strips(config, index, channel, storage or Storage()):
            parts[BANDS[band]].append(strip)
        scale = channel_grid(config, channel).pixel_arcsec
        for name, strips in parts.items():
            planes = ("noiseless", "science", "error", "covered")
            whole = {plane: np.concatenate([getattr(strip, plane) for strip in strips]) for plane in planes}
            mosaics[name] = Mosaic(**whole, pixel_arcsec=scale)
    return mosaics


def field_truth(config: FieldConfig, index: int = 0) -> pa.Table:
    """Truth of the objects of a field, columns `TRUTH_COLUMNS`, in order of rows of tiles and ids."""
    stamps = _stamps(config)
    rows = range(rows_of_tiles(config))
    found = [s for row in rows for s in row_sources(config, index, row, len(stamps) if stamps else 0)]
    return truth_table(config, index, found)


def truth_table(config: FieldConfig, index: int, sources: list[Source]) -> pa.Table:
    """Truth of sources of field `index`, columns `TRUTH_COLUMNS`."""
    scale = PIXEL_ARCSEC[config.layout][0]
    u, v = np.array([(s.u, s.v) for s in sources]).reshape(-1, 2).T
    ra, dec = layout.sky_positions(config, index, u, v)
    flux = np.array([s.total_flux for s in sources]).reshape(-1, len(BANDS))
    main = [_main_profile(s) for s in sources]
    columns = {
        "field": pa.repeat(pa.scalar(layout.field_name(config, index)), len(sources)),
        "object_id": [s.object_id for s in sources], "ra": ra, "dec": dec,
        "x": u / scale - 0.5, "y": v / scale - 0.5,
        "kind": pa.array([s.kind for s in sources], pa.string()),
        "anomaly": pa.array([s.anomaly or None for s in sources], pa.string()),
        "anomaly_band": pa.array([BANDS[s.artefact.band] if s.artefact else None for s in sources], pa.string()),
        "strength": [s.strength for s in sources],
        "z": pa.array([None if s.kind == "star" else s.z for s in sources], pa.float64()),
        "flux": list_array(flux.astype(np.float32)), "mag": list_array(magnitudes(flux).astype(np.float32)),
        "half_light_radius": [half_light_radius(s) for s in sources],
        "sersic_index": [p.index if p else 0.0 for p in main],
        "bulge_fraction": [_bulge_fraction(s) for s in sources],
        "morphology": [morphology(s) for s in sources],
        "axis_ratio": [p.axis_ratio if p else 1.0 for p in main],
        "angle": [p.angle if p else 0.0 for p in main],
        "num_parts": [len(s.profiles) + sum(b.weight.size for b in s.blobs) for s in sources],
    }  # fmt: skip
    return conform(pa.table(columns), TRUTH_COLUMNS, "truth of a synthetic field")


def _main_profile(source: Source) -> Profile | None:
    return max(source.profiles, key=lambda p: source.flux[p.sed, REFERENCE] * p.weight, default=None)


def _bulge_fraction(source: Source) -> float | None:
    """Share of the bulge in the light in F200W; None unless it is a galaxy of bulge, disk and clumps."""
    light = source.flux[:, REFERENCE]
    return float(light[BULGE] / light.sum()) if len(light) == NUM_PARTS and light.sum() > 0 else None


def morphology(source: Source) -> str | None:
    """Class of a source as the truth table has it: disk, spheroid, irregular; None: none of them."""
    bulge_fraction = _bulge_fraction(source)
    if source.anomaly == "merger":
        return "irregular"
    if bulge_fraction is None or source.anomaly not in ("", *ARTEFACTS):
        return None
    if bulge_fraction < MAX_DISK_BULGE:
        return "disk"
    return "spheroid" if bulge_fraction > MIN_SPHEROID_BULGE else None


def write_truth(truth: Iterable[pa.Table], uri: str, storage: Storage) -> str:
    """Write what the tasks returned, in their order, as `{uri}/truth.parquet`; return its URI."""
    return write_table(truth, TRUTH_COLUMNS, uri, storage)
