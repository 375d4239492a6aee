"""Small catalogues for tests: seeded rows, published the way jobs publish."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from catalogs import nircam_band_anomalies
from catalogs.gallery import GalleryItem
from catalogs.spectral_anomaly import SPEC, columns
from engine.column import Column
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.commit.manifest import Manifest
from engine.flags import LOW_COVERAGE, MISSING_B, MISSING_BAND, NOT_SCORED
from engine.schema import arrow_schema
from engine.spectra.explain import WINDOW_LINES
from engine.spectra.grid import WAVE_OBS
from engine.spectra.lines import lines_within
from engine.spectra.prepare import SpectrumPrep
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import Storage
from engine.units import FileRef, Unit, with_ids
from models.scoring.band_columns import BandScoringConfig
from models.scoring.band_columns import columns as band_columns

NUM_LATENT = 4
FIRST_TARGETID = 2**60 + 1
"""Above 2^53, so that a detour through float is seen."""

SCORES = ("weighted_mse", "log_wrp", "log_likelihood", "latent_distance")

MODEL_COLUMNS = (
    Column("latent_mean", "float32", "Mean of the latent posterior", length=NUM_LATENT),
    *(Column(name, "float32", f"Score {name}") for name in SCORES),
    *(Column(f"{name}_percentile", "float32", f"Percentile of {name}", "%") for name in SCORES),
    Column("on_manifold_score", "float32", "-log10 tail probability of the latent position"),
    Column("off_manifold_score", "float32", "-log10 tail probability of the reconstruction"),
    Column("anomaly_score", "float32", "Larger of on_manifold_score and off_manifold_score"),
    Column("worst_wave_min", "float32", "Start of the worst window", "Angstrom"),
    Column("worst_wave_max", "float32", "End of the worst window", "Angstrom"),
    Column("window_wave_min", "float32", "Starts of the worst windows", "Angstrom", length=3),
    Column("window_wave_max", "float32", "Ends of the worst windows", "Angstrom", length=3),
    Column("neighbour_id", "int64", "Nearest normal objects", length=2),
    Column("neighbour_distance", "float32", "Distance to them", length=2),
    Column("neighbour_class_fraction", "float32", "Part that is of the same class"),
    Column("artefact_probability", "float32", "Whether the instrument made it"),
    WINDOW_LINES,
)
"""What a model would write."""

COLUMNS = columns(MODEL_COLUMNS)

PROVENANCE = {
    "git_commit": "0123abc",
    "checkpoints": {"spectral_vae": "feed" * 8},
    "packages": {"numpy": "2.4"},
    "config": {"release": {"uri": "s3://<bucket>/desi"}},
}


@dataclass(frozen=True)
class CatalogueMaker:
    """Publishes versions below a root."""

    root: str
    storage: Storage

    def publish(self, *units: tuple[int, int], seed: int = 0, damaged: int = 0, **config: Any) -> Manifest:
        """Publish units of (rows, rejected objects), each of a content of its own."""
        made = [
            Unit(f"unit-{i}", (FileRef(f"/release/coadd-{i}.fits", rows, f"{seed}-{rejected}"),))
            for i, (rows, rejected) in enumerate(units)
        ]
        sink = FragmentSink(self.root, self.storage.options, COLUMNS)
        ids = []
        for i, unit in enumerate(with_ids(made, {"seed": seed})):
            sink.write(unit, unit_table(*units[i], first=i * 100_000, seed=seed + i))
            ids.append(unit.id)
        settings = CatalogConfig(**{"name": "test", "key": SPEC.key, "max_rows_per_partition": 100} | config)
        return publish(self.root, self.storage, ids, COLUMNS, settings, PROVENANCE, damaged=damaged)


def unit_table(num_rows: int, num_rejected: int, first: int = 0, seed: int = 0) -> UnitTable:
    """Rows of one unit; a few are anomalous, and petal 3 has more of them than others."""
    rejections = [
        Rejection("/release/coadd.fits", "fiberstatus" if i % 2 else "no_usable_pixel", "test", num_rows + i,
                  FIRST_TARGETID - 1 - first - i, "main", "dark")
        for i in range(num_rejected)
    ]  # fmt: skip
    return UnitTable(make_rows(num_rows, first, seed), rejected_table(rejections), num_rows + num_rejected)


def make_rows(num_rows: int, first: int = 0, seed: int = 0) -> pa.Table:
    """Rows with all columns of `COLUMNS`, scores as calibration promises but for the anomalies."""
    rng = np.random.default_rng([seed, first])
    fiber = rng.integers(0, 5000, num_rows)
    petal = fiber // 500
    spectype = rng.choice(["GALAXY", "QSO", "STAR"], num_rows, p=[0.6, 0.25, 0.15])
    latent = rng.normal(size=(num_rows, NUM_LATENT)) + 2.5 * (spectype[:, None] == ["QSO", "STAR", "", ""])
    is_odd = rng.random(num_rows) < np.where(petal == 3, 0.05, 0.01)
    off = rng.exponential(1 / np.log(10), num_rows) + is_odd * rng.gamma(3, 1, num_rows)
    on = rng.exponential(1 / np.log(10), num_rows)
    start = rng.uniform(3600, 9500, num_rows)
    percentiles = {f"{name}_percentile": 100 * rng.random(num_rows) for name in SCORES}
    known = {
        "targetid": FIRST_TARGETID + first + np.arange(num_rows),
        "survey": np.full(num_rows, "main"),
        "program": rng.choice(["dark", "bright"], num_rows),
        "ra": rng.uniform(150, 190, num_rows),
        "dec": np.degrees(np.arcsin(rng.uniform(-0.1, 0.6, num_rows))),
        "z": np.where(spectype == "STAR", 1e-4, rng.gamma(2, 0.4, num_rows)),
        "spectype": spectype,
        "fiber": fiber,
        "petal": petal,
        "tileid": rng.integers(1000, 1060, num_rows),
        "night": 20240101 + rng.integers(0, 28, num_rows),
        "flags": np.where(rng.random(num_rows) < 0.05, MISSING_B.value | LOW_COVERAGE.value, 0),
        "snr": rng.gamma(2, 2, num_rows),
        "norm": rng.gamma(2, 1, num_rows) + 0.1,
        "source_uri": np.full(num_rows, "/release/coadd.fits"),
        "source_row": np.arange(num_rows),
        "num_good_pixels": np.full(num_rows, 7781),
        "latent_mean": list(latent.astype(np.float32)),
        "off_manifold_score": off,
        "on_manifold_score": on,
        "anomaly_score": np.maximum(off, on),
        "worst_wave_min": start,
        "worst_wave_max": start + 51.2,
        "window_wave_min": list(np.stack([start, 12800 - start, np.full(num_rows, np.nan)], 1)),
        "window_wave_max": list(np.stack([start, 12800 - start, np.full(num_rows, np.nan)], 1) + 51.2),
        "neighbour_id": list(rng.integers(FIRST_TARGETID, 2**61, (num_rows, 2))),
        "neighbour_distance": list(np.sort(rng.gamma(2, 1, (num_rows, 2)), axis=1)),
        "artefact_probability": rng.random(num_rows),
        "window_lines": np.where(spectype == "STAR", "Na D | - | -", "[O III], H β | H α | -"),
        **percentiles,
    }
    return _table([c for c in COLUMNS if c.name != "_healpix_29"], known, num_rows)


def _table(wanted: Sequence[Column], known: dict[str, Any], num_rows: int) -> pa.Table:
    arrays = []
    for column, field in zip(wanted, arrow_schema(wanted), strict=True):
        array = pa.array(known[column.name] if column.name in known else _default(column, num_rows))
        arrays.append(array.cast(field.type, safe=False))
    return pa.Table.from_arrays(arrays, schema=arrow_schema(wanted))


def _default(column: Column, num_rows: int) -> Any:
    if column.nullable:
        return [None] * num_rows
    return list(np.zeros((num_rows, column.length))) if column.length else np.zeros(num_rows)


def publish_bands(root: str, num_rows: int, unscored: Sequence[int], seed: int = 0) -> Manifest:
    """Publish a catalogue of images whose rows `unscored` lack a band: scores and latents are NaN, with the flag."""
    config = BandScoringConfig(num_latent=NUM_LATENT)
    wanted = nircam_band_anomalies.columns(band_columns(config, 1))
    rng = np.random.default_rng(seed)
    missing = np.isin(np.arange(num_rows), unscored)
    latent = np.where(missing[:, None], np.nan, rng.normal(size=(num_rows, NUM_LATENT)))
    known = {
        "field": np.full(num_rows, "ceers"),
        "object_id": np.arange(num_rows) + 1,
        "ra": rng.uniform(150, 190, num_rows),
        "dec": rng.uniform(-5, 5, num_rows),
        "source_uri": np.full(num_rows, "/release/field.fits"),
        "source_row": np.arange(num_rows),
        "latent_mean": list(latent.astype(np.float32)),
        "anomaly_score": np.where(missing, np.nan, rng.exponential(size=num_rows)),
        "flags": np.where(missing, NOT_SCORED.value | MISSING_BAND.value, 0),
    }
    rows = _table([c for c in wanted if c.name != "_healpix_29"], known, num_rows)
    storage, spec = Storage(), nircam_band_anomalies.SPEC
    (unit,) = with_ids([Unit("unit-0", (FileRef("/release/field.fits", num_rows, "0"),))], {"seed": seed})
    FragmentSink(root, storage.options, wanted).write(unit, UnitTable(rows, rejected_table([]), num_rows))
    settings = CatalogConfig(name=spec.name, key=spec.key, max_rows_per_partition=100)
    return publish(root, storage, [unit.id], wanted, settings, PROVENANCE)


def gallery_item(row: dict[str, Any], seed: int = 0) -> GalleryItem:
    """A spectrum for a row of the catalogue: continuum, lines at its z, and a bump that the model misses."""
    rng = np.random.default_rng([seed, row["targetid"] % 1000])
    wave = WAVE_OBS
    recon = 1 + 0.3 * np.sin(wave / 1500)
    for line in lines_within(wave[0], wave[-1], row["z"]):
        width = 4.0 if line.kind == "emission" else 8.0
        height = 2.5 if line.kind == "emission" else -0.4
        recon += height * np.exp(-0.5 * ((wave - line.wave_angstrom * (1 + row["z"])) / width) ** 2)
    centre = (row["worst_wave_min"] + row["worst_wave_max"]) / 2
    bump = 1.5 * np.exp(-0.5 * ((wave - centre) / 12) ** 2)
    noise = 0.25 + 0.5 * (wave > 9000) + 0.4 * np.exp(-(wave - 3600) / 300)
    ivar = np.where(rng.random(wave.size) < 0.01, 0, noise**-2)
    flux = np.where(ivar > 0, recon + bump + noise * rng.normal(size=wave.size), 0)
    sigma = np.full(wave.size, 0.05)
    key = tuple(row[name] for name in SPEC.key)
    return GalleryItem(key, {"flux": flux, "ivar": ivar}, {"recon": recon, "sigma": sigma}, SpectrumPrep())


def training_history(num_epochs: int = 8) -> list[dict[str, Any]]:
    """Metrics as a checkpoint keeps them."""
    return [
        {
            "epoch": i,
            "loss": 1 / (i + 1),
            "val_loss": 1.1 / (i + 1),
            "kl": 0.1 * i,
            "val_kl": 0.11 * i,
            "lr": 1e-3,
        }
        for i in range(num_epochs)
    ]
