"""Write a synthetic DESI release in the real file layout, file by file, each from its own seed.

Files do not depend on each other: they may be written in any order, anywhere, again. Memory is that of one
file.
"""

# B = rows of the coadd, n = pixels of a camera

import io
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from astropy.io import fits

from engine.schema import conform
from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS, WAVE_STEP_ANGSTROM
from engine.storage import Storage
from engine.synthetic import noise, tables
from engine.synthetic.anomalies import KINDS
from engine.synthetic.bases import Bases
from engine.synthetic.noise import Arms, Observing
from engine.synthetic.profiles import LSF_SIGMA_ANGSTROM
from engine.synthetic.release import (
    HEALPIX_ORDER,
    TRUTH_COLUMNS,
    FilePlan,
    SynthesizeConfig,
    plan_file,
    simulate_config,
    task_count,
)
from engine.synthetic.simulate import SimulatedSpectra, simulate
from engine.synthetic.templates import load_bases
from engine.synthetic.truth import write_table

__all__ = [
    "SynthesizeConfig",
    "describe",
    "load_bases",
    "plan_file",
    "task_count",
    "write_task",
    "write_truth",
]

FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"
_SPECTRA, _TABLES = 0, 1  # what a stream of random numbers of a file is for


def describe(config: SynthesizeConfig, tasks: int) -> dict[str, int]:
    """Say what the first so many tasks write."""
    return {"files": tasks, "spectra": min(config.num_spectra, tasks * config.spectra_per_file)}


def write_task(
    config: SynthesizeConfig, index: int, uri: str, storage: Storage, bases: Bases | None = None
) -> pa.Table:
    """Write one coadd and its redrock file.

    Parameters
    ----------
    config
        The release.
    index
        Which file, 0 to `task_count(config)` - 1.
    uri
        Root of the release.
    storage
        Where to write. Existing files are replaced.
    bases
        Templates, if the caller has read them already; else `config.bases_uri` is read where needed.

    Returns
    -------
    pyarrow.Table
        Truth of the file's rows, columns `TRUTH_COLUMNS`; the same whatever is damaged.
    """
    plan = plan_file(config, index)
    if bases is None and config.bases_fraction > 0:
        bases = load_bases(config.bases_uri, storage)
    spectra = simulate(
        plan.num_rows, (config.seed, index, _SPECTRA), simulate_config(config, plan.program),
        bases=bases, keep_arms=True, keep_noiseless=True,
    )  # fmt: skip
    rng = np.random.default_rng((config.seed, index, _TABLES))
    rows = tables.draw_rows(config, plan, spectra, rng)
    assert spectra.arms is not None
    arms = _blank(spectra.arms, rows, spectra.truth.observing, rng)
    fibermap, score = tables.fibermap(plan, rows, spectra), tables.scores(rows, spectra, arms)
    redshifts = tables.redshifts(rows, spectra, rng)
    coadd = _coadd(config, plan, fibermap, tables.exposures(plan, rows, spectra), score, arms)
    storage.put(Storage.join(uri, plan.path), _damaged(coadd, plan))
    if plan.damage != "missing_redrock":
        redrock = _redrock(plan, redshifts, fibermap, tables.tsnr2(score))
        storage.put(Storage.join(uri, plan.redrock_path), redrock)
    return _truth(plan, rows, spectra)


def write_truth(truth: Iterable[pa.Table], uri: str, storage: Storage) -> str:
    """Write the truth of a release as `{uri}/truth.parquet`; return its URI.

    Parameters
    ----------
    truth
        What `write_task` returned, in the order of the files for a result that does not depend on timing.
    """
    return write_table(truth, TRUTH_COLUMNS, uri, storage)


def _blank(arms: Arms, rows: tables.Rows, observing: Observing, rng: np.random.Generator) -> Arms:
    """Replace sky fibres by noise around zero, and give bad ones no data at all."""
    sky = np.flatnonzero(rows.is_sky)
    dark = Observing(observing.exptime_s[sky], observing.sky[sky])
    empty = noise.observe(np.zeros((sky.size, WAVE_OBS.size), np.float32), dark, rng)
    for camera in noise.CAMERAS:
        arms.flux[camera][sky], arms.ivar[camera][sky] = empty.flux[camera], empty.ivar[camera]
        arms.mask[camera][sky] = empty.mask[camera]
        arms.flux[camera][rows.is_bad], arms.ivar[camera][rows.is_bad] = 0.0, 0.0
        arms.mask[camera][rows.is_bad] = noise.MASK_ALLBAD
    return arms


def _coadd(
    config: SynthesizeConfig, plan: FilePlan, fibermap: tables.Table, exposures: tables.Table,
    score: tables.Table, arms: Arms,
) -> bytes:  # fmt: skip
    hdus: list = [
        _primary(plan),
        _table("FIBERMAP", fibermap, plan),
        _table("EXP_FIBERMAP", exposures, plan),
    ]
    for camera in noise.CAMERAS:
        if not (plan.damage == "missing_camera" and camera == "r"):
            hdus += _camera(config, camera, arms)
    return _bytes([*hdus, _table("SCORES", score, plan)])


def _camera(config: SynthesizeConfig, camera: str, arms: Arms) -> list:
    """HDUs of one camera, in the order of real files."""
    name = camera.upper()
    wave = fits.ImageHDU(WAVE_OBS[CAMERA_SLICES[camera]], name=f"{name}_WAVELENGTH")
    flux = fits.ImageHDU(arms.flux[camera], name=f"{name}_FLUX")
    ivar = fits.ImageHDU(arms.ivar[camera], name=f"{name}_IVAR")
    for hdu, unit in ((wave, "Angstrom"), (flux, FLUX_UNIT), (ivar, IVAR_UNIT)):
        hdu.header["BUNIT"] = unit
    kind = fits.CompImageHDU if config.compress_mask else fits.ImageHDU
    hdus = [wave, flux, ivar, kind(arms.mask[camera], name=f"{name}_MASK")]
    if config.with_resolution:
        hdus.append(fits.ImageHDU(_resolution(flux.shape), name=f"{name}_RESOLUTION"))
    return hdus


def _resolution(shape: tuple[int, ...]) -> np.ndarray:
    """Diagonals of the resolution matrix float32 [B, 11, n]: the same Gaussian everywhere."""
    offset = np.arange(5, -6, -1) * WAVE_STEP_ANGSTROM
    weight = np.exp(-0.5 * np.square(offset / LSF_SIGMA_ANGSTROM))
    band = (weight / weight.sum()).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(band[None, :, None], (shape[0], 11, shape[1])))


def _redrock(plan: FilePlan, redshifts: tables.Table, fibermap: tables.Table, tsnr2: tables.Table) -> bytes:
    primary = _primary(plan)
    primary.header["RRVER"] = ("synthetic", "no template was fitted")
    named = (("REDSHIFTS", redshifts), ("FIBERMAP", fibermap), ("TSNR2", tsnr2))
    return _bytes([primary, *(_table(name, table, plan) for name, table in named)])


def _primary(plan: FilePlan) -> fits.PrimaryHDU:
    """Primary HDU with the keywords by which desispec knows what a file groups."""
    header = fits.Header()
    if plan.petal is not None:
        header.update({"SPGRP": "cumulative", "SPGRPVAL": plan.night, "NIGHT": plan.night})
        header.update({"TILEID": plan.tileid, "SPECTRO": plan.petal, "PETAL": plan.petal})
    else:
        header.update({"SPGRP": "healpix", "SPGRPVAL": plan.cell, "HPXPIXEL": plan.cell})
        header.update({"HPXNSIDE": 2**HEALPIX_ORDER, "HPXNEST": True})
        header.update({"SURVEY": plan.survey, "PROGRAM": plan.program})
    header["SPECPROD"] = ("synthetic", "made with known truth, no real sky")
    return fits.PrimaryHDU(header=header)


def _table(name: str, table: tables.Table, plan: FilePlan) -> fits.BinTableHDU:
    dtype = [(key, values.dtype, values.shape[1:]) for key, values in table.items()]
    rows = np.empty(len(table["TARGETID"]), dtype)
    for key, values in table.items():
        rows[key] = values
    hdu = fits.BinTableHDU(rows, name=name)
    hdu.header["SURVEY"], hdu.header["PROGRAM"] = plan.survey, plan.program
    return hdu


def _bytes(hdus: list) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


def _damaged(coadd: bytes, plan: FilePlan) -> bytes:
    """Cut the file in the middle, or make it something else than FITS, if that is planned."""
    if plan.damage == "truncated_coadd":
        return coadd[: len(coadd) // 2]
    return b"<html><body>503 Service Unavailable</body></html>\n" if plan.damage == "not_fits" else coadd


def _truth(plan: FilePlan, rows: tables.Rows, spectra: SimulatedSpectra) -> pa.Table:
    """Truth of the rows, of sky and bad fibres too."""
    objects, is_sky = spectra.truth, rows.is_sky
    family = [KINDS[kind].family if kind else "" for kind in objects.anomaly.tolist()]
    values = {
        "targetid": rows.targetid, "row": np.arange(plan.num_rows, dtype=np.int32), "objtype": rows.objtype,
        "fiberstatus": rows.fiberstatus, "ra": rows.ra, "dec": rows.dec, "fiber": rows.fiber,
        "target": np.where(is_sky, "", objects.target), "spectype": np.where(is_sky, "", spectra.spectype),
        "subtype": np.where(is_sky, "", spectra.subtype), "z": objects.z, "z_reported": objects.z_reported,
        "zwarn": rows.zwarn, "rmag": objects.rmag, "snr": spectra.snr, "anomaly": objects.anomaly,
        "family": np.array(family, "U10"), "strength": objects.strength,
    }  # fmt: skip
    same = {"survey": plan.survey, "program": plan.program, "path": plan.path, "damage": plan.damage}
    columns = {name: pa.array(array) for name, array in values.items()}
    columns |= {name: pa.repeat(pa.scalar(value), plan.num_rows) for name, value in same.items()}
    return conform(pa.table(columns), TRUTH_COLUMNS, f"truth of {plan.path}")
