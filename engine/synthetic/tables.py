"""Tables of a DESI coadd and its redrock file for simulated spectra: who, where, when, how well.

Only columns that someone reads; names and types are those of the DESI data model
(https://desidatamodel.readthedocs.io: coadd-SURVEY-PROGRAM-PIXNUM and redrock-SURVEY-PROGRAM-PIXNUM).
"""

# B = rows of the coadd

from dataclasses import dataclass

import numpy as np

from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS
from engine.synthetic.noise import CAMERAS, Arms
from engine.synthetic.release import (
    FAULTY_FIBERS,
    FIBERS_PER_PETAL,
    HEALPIX_ORDER,
    MAX_ROWS,
    NUM_PETALS,
    FilePlan,
    SynthesizeConfig,
)
from engine.synthetic.simulate import SNR_STRIDE, SimulatedSpectra

RELEASE = 9010
"""Number of the imaging release in TARGETID; puts every id above 2^53."""
SKY_BIT = 1 << 59
"""Bit of TARGETID that says sky (desitarget.targetmask.targetid_mask)."""
BAD_FIBER = 1 << 9
"""COADD_FIBERSTATUS bit of a broken fibre, which has no data."""
TARGET_BITS = {"LRG": 1 << 0, "ELG": 1 << 1, "QSO": 1 << 2, "BGS": 1 << 60, "STAR": 1 << 61}
SKY_TARGET = 1 << 32
"""DESI_TARGET bits (desitarget.targetmask.desi_mask)."""
SMALL_DELTA_CHI2, NODATA = 4, 1 << 9
"""ZWARN bits (redrock.zwarning.ZWarningMask)."""
BANDS = {"G": (4000.0, 5400.0, 4700.0), "R": (5700.0, 7100.0, 6400.0), "Z": (8400.0, 9800.0, 9100.0)}
"""Windows and effective wavelengths [Angstrom] of crude photometry."""
TSNR2_PER_1000_S = {"BGS": 9500.0, "ELG": 140.0, "LRG": 95.0, "QSO": 35.0, "LYA": 120.0}
"""Template signal-to-noise squared of 1000 s of dark time, from public coadds."""
EXPOSURE_S = 900.0
POSITION_ORDER = 24
"""Order of the HEALPix cells at whose centres objects lie: 13 mas."""
HARDWARE_COLUMNS = ("PETAL_LOC", "DEVICE_LOC", "LOCATION", "FIBER")
"""FIBERMAP has them in tile coadds only; coadds over tiles have them in EXP_FIBERMAP."""

Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """Identity and state of the rows of a coadd; arrays [B]."""

    targetid: np.ndarray
    is_sky: np.ndarray
    is_bad: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    fiber: np.ndarray
    num_exposures: np.ndarray
    objtype: np.ndarray
    zwarn: np.ndarray

    @property
    def fiberstatus(self) -> np.ndarray:
        """COADD_FIBERSTATUS bits."""
        return np.where(self.is_bad, BAD_FIBER, 0).astype(np.int32)


def draw_rows(
    config: SynthesizeConfig, plan: FilePlan, spectra: SimulatedSpectra, rng: np.random.Generator
) -> Rows:
    """Decide which rows are sky or bad, and give all of them ids, positions and fibres."""
    num = plan.num_rows
    plain = spectra.anomaly == ""
    is_sky = plain & (rng.uniform(size=num) < config.sky_fraction)
    is_bad = plain & ~is_sky & (rng.uniform(size=num) < config.bad_fiber_fraction)
    fiber = _fibers(config, plan, spectra.anomaly, rng)
    ra, dec = _positions(plan.cell, num, rng)
    unassigned = is_bad & config.negative_targetids
    doubtful = plain & (rng.uniform(size=num) < config.zwarn_fraction)
    zwarn = np.where(doubtful, SMALL_DELTA_CHI2, 0) | np.where(is_sky, SMALL_DELTA_CHI2, 0)
    return Rows(
        targetid=_target_ids(config, plan, is_sky, unassigned, fiber),
        is_sky=is_sky, is_bad=is_bad, ra=ra, dec=dec, fiber=fiber,
        num_exposures=np.clip(np.rint(spectra.truth.exptime_s / EXPOSURE_S), 1, 12).astype(np.int16),
        objtype=np.where(unassigned, "", np.where(is_sky, "SKY", "TGT")),
        zwarn=(zwarn | np.where(is_bad, NODATA, 0)).astype(np.int64),
    )  # fmt: skip


def _target_ids(
    config: SynthesizeConfig, plan: FilePlan, is_sky: np.ndarray, unassigned: np.ndarray, fiber: np.ndarray
) -> np.ndarray:
    """TARGETID [B], int64 above 2^53: release, brick (here the file) and object (here row and seed).

    References
    ----------
    desitarget.targets.encode_targetid: OBJID 22 bits, BRICKID 20, RELEASE 16; bit 59 is sky. Stuck fibres of old
    productions had -(10000 TILEID + LOCATION).
    """
    objid = np.arange(plan.num_rows, dtype=np.int64) + MAX_ROWS * (config.seed % 1024)
    ids = (np.int64(RELEASE) << 42) | (np.int64(plan.index) << 22) | objid
    ids |= np.where(is_sky, np.int64(SKY_BIT), np.int64(0))
    location = 1000 * (fiber // FIBERS_PER_PETAL) + fiber % FIBERS_PER_PETAL
    return np.where(unassigned, -(10000 * plan.tileid + location.astype(np.int64)), ids)


def _fibers(
    config: SynthesizeConfig, plan: FilePlan, anomaly: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Fibres [B]; most arm offsets sit on `FAULTY_FIBERS` if the file can have those."""
    first, last = 0, FIBERS_PER_PETAL * NUM_PETALS
    if plan.petal is not None:
        first, last = plan.petal * FIBERS_PER_PETAL, (plan.petal + 1) * FIBERS_PER_PETAL
    fiber = rng.integers(first, last, plan.num_rows)
    faulty = rng.integers(FAULTY_FIBERS.start, FAULTY_FIBERS.stop, plan.num_rows)
    is_faulty = (anomaly == "arm_offset") & (rng.uniform(size=plan.num_rows) < config.hardware_fraction)
    is_faulty &= (first <= FAULTY_FIBERS.start) & (FAULTY_FIBERS.stop <= last)
    return np.where(is_faulty, faulty, fiber).astype(np.int32)


def _positions(cell: int, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination [deg] inside a HEALPix cell: centres of far smaller cells."""
    from cdshealpix.nested import healpix_to_lonlat  # 1 s that physics alone need not pay

    below = POSITION_ORDER - HEALPIX_ORDER
    children = np.uint64(cell << 2 * below) + rng.integers(0, 4**below, num).astype(np.uint64)
    ra, dec = healpix_to_lonlat(children, POSITION_ORDER, num_threads=1)
    return np.asarray(ra.to_value("deg")), np.asarray(dec.to_value("deg"))


def fibermap(plan: FilePlan, rows: Rows, spectra: SimulatedSpectra) -> Table:
    """FIBERMAP: one row a spectrum."""
    truth = spectra.truth
    table: Table = {
        "TARGETID": rows.targetid.astype(np.int64),
        **_hardware(rows.fiber),
        "COADD_FIBERSTATUS": rows.fiberstatus,
        "TARGET_RA": rows.ra,
        "TARGET_DEC": rows.dec,
        "OBJTYPE": np.char.encode(rows.objtype, "ascii").astype("S3"),
        "RELEASE": np.full(plan.num_rows, RELEASE, np.int16),
        "BRICKID": np.full(plan.num_rows, plan.index, np.int32),
        "MORPHTYPE": np.where(np.isin(truth.target, ("QSO", "STAR")), b"PSF", b"EXP").astype("S4"),
        "EBV": np.full(plan.num_rows, 0.03, np.float32),
        **_photometry(spectra, rows.is_sky | rows.is_bad),
        **_targeting(truth.target, rows.is_sky),
        "COADD_NUMEXP": rows.num_exposures,
        "COADD_EXPTIME": np.where(rows.is_bad, 0, truth.exptime_s).astype(np.float32),
        "COADD_NUMNIGHT": rows.num_exposures,
        "COADD_NUMTILE": np.ones(plan.num_rows, np.int16),
    }
    if plan.petal is None:
        return {name: values for name, values in table.items() if name not in HARDWARE_COLUMNS}
    return table | {"TILEID": np.full(plan.num_rows, plan.tileid, np.int32)}


def _hardware(fiber: np.ndarray) -> Table:
    device = fiber % FIBERS_PER_PETAL
    petal = fiber // FIBERS_PER_PETAL
    return {
        "PETAL_LOC": petal.astype(np.int16),
        "DEVICE_LOC": device.astype(np.int32),
        "LOCATION": (1000 * petal + device).astype(np.int64),
        "FIBER": fiber.astype(np.int32),
    }


def _targeting(target: np.ndarray, is_sky: np.ndarray) -> Table:
    """Targeting bits [B] by kind of target."""
    bits = np.array([TARGET_BITS[name] for name in target], np.int64)
    return {
        "DESI_TARGET": np.where(is_sky, SKY_TARGET, bits),
        "BGS_TARGET": np.where((target == "BGS") & ~is_sky, 2, 0).astype(np.int64),
        "MWS_TARGET": np.where((target == "STAR") & ~is_sky, 1, 0).astype(np.int64),
        "SCND_TARGET": np.zeros(len(target), np.int64),
    }


def _photometry(spectra: SimulatedSpectra, blank: np.ndarray) -> Table:
    """Fluxes in all and in the fibre [nanomaggy], [B] each, from the noiseless spectra; 0 where blank."""
    if spectra.noiseless is None:
        raise ValueError("photometry needs the noiseless spectra: simulate with keep_noiseless")
    fluxes = {}
    for band, (start, stop, effective) in BANDS.items():
        window = slice(*np.searchsorted(WAVE_OBS, [start, stop]))
        per_frequency = spectra.noiseless[:, window].mean(axis=1) * 1e-17 * effective**2 / 2.998e18
        fluxes[band] = np.where(blank, 0, per_frequency / 3.631e-29)
    whole = {f"FLUX_{band}": (1.4 * flux).astype(np.float32) for band, flux in fluxes.items()}
    return whole | {f"FIBERFLUX_{band}": flux.astype(np.float32) for band, flux in fluxes.items()}


def exposures(plan: FilePlan, rows: Rows, spectra: SimulatedSpectra) -> Table:
    """EXP_FIBERMAP: one row an exposure of a spectrum; all on one tile, a night apart."""
    repeat = np.repeat(np.arange(plan.num_rows), rows.num_exposures)
    step = np.concatenate([np.arange(n) for n in rows.num_exposures])
    share = spectra.truth.exptime_s / rows.num_exposures
    return {
        "TARGETID": rows.targetid[repeat].astype(np.int64),
        "NIGHT": (plan.night - step).astype(np.int32),
        "EXPID": (90000 + 20 * plan.tileid - step).astype(np.int32),
        "MJD": 59348.3 + (plan.tileid % 17) - step,
        "TILEID": np.full(repeat.size, plan.tileid, np.int32),
        "EXPTIME": share[repeat],
        **_hardware(rows.fiber[repeat]),
        "FIBERSTATUS": rows.fiberstatus[repeat],
    }


def scores(rows: Rows, spectra: SimulatedSpectra, arms: Arms) -> Table:
    """SCORES: median signal-to-noise by camera, and template signal-to-noise squared."""
    table: Table = {"TARGETID": rows.targetid.astype(np.int64)}
    for camera in CAMERAS:
        flux, ivar = arms.flux[camera][:, ::SNR_STRIDE], arms.ivar[camera][:, ::SNR_STRIDE]
        table[f"MEDIAN_COADD_FLUX_{camera.upper()}"] = np.median(flux, axis=1)
        table[f"MEDIAN_COADD_SNR_{camera.upper()}"] = np.median(flux * np.sqrt(ivar), axis=1)
    depth = np.where(rows.is_bad, 0.0, spectra.truth.exptime_s / 1000.0 / (0.45 + 0.55 * spectra.truth.sky))
    return table | _tsnr2(depth)


def tsnr2(score: Table) -> Table:
    """TSNR2 table of the redrock file."""
    return {name: values for name, values in score.items() if name == "TARGETID" or name.startswith("TSNR2_")}


def _tsnr2(depth: np.ndarray) -> Table:
    shares = {"B": 0.15, "R": 0.35, "Z": 0.5}
    table: Table = {}
    for name, per_1000_s in TSNR2_PER_1000_S.items():
        for camera, share in shares.items():
            table[f"TSNR2_{name}_{camera}"] = (per_1000_s * share * depth).astype(np.float32)
        table[f"TSNR2_{name}"] = (per_1000_s * depth).astype(np.float32)
    return table


def redshifts(rows: Rows, spectra: SimulatedSpectra, rng: np.random.Generator) -> Table:
    """REDSHIFTS of redrock: the reported redshift and class, with errors and chi2 that follow the noise."""
    num = len(rows.targetid)
    blank = rows.is_sky | rows.is_bad
    snr = np.maximum(np.where(blank, 0.05, spectra.snr), 0.05)
    num_pixels = sum(where.stop - where.start for where in CAMERA_SLICES.values())
    good = 9.0 + 900.0 * snr**1.5 * rng.lognormal(0.0, 0.5, num)
    delta = np.where(rows.zwarn != 0, rng.uniform(0.5, 8.5, num), good)
    spectype = np.where(blank, "GALAXY", spectra.spectype)
    return {
        "TARGETID": rows.targetid.astype(np.int64),
        "Z": np.where(blank, rng.uniform(0.0, 1.7, num), spectra.truth.z_reported),
        "ZERR": (1.0 + spectra.z) * 7e-5 * np.clip(snr, 0.3, 10.0) ** -0.5,
        "ZWARN": rows.zwarn,
        "CHI2": num_pixels + rng.normal(0.0, np.sqrt(2.0 * num_pixels), num),
        "COEFF": rng.normal(0.0, 1.0, (num, 10)),
        "FITMETHOD": np.full(num, b"PCA", "S4"),
        "NPIXELS": np.full(num, num_pixels, np.int64),
        "SPECTYPE": np.char.encode(spectype, "ascii").astype("S6"),
        "SUBTYPE": np.char.encode(np.where(blank, "", spectra.subtype), "ascii").astype("S20"),
        "NCOEFF": np.full(num, 10, np.int64),
        "DELTACHI2": delta,
    }
