"""How an astronomer reads a coadd: astropy, HDUs by name, the arms merged by slicing, redshifts joined."""

from pathlib import Path

import numpy as np
import pandas  # noqa: F401 - pyarrow imports it for its first array; here it counts as start-up, as in our workers
from astropy.io import fits

from engine.spectra.prepare import SpectrumPrep, prepare

FIRST_PIXEL = {"B": 0, "R": 2700, "Z": 4900}
NUM_PIXELS = 7781


def coadds(release: str) -> list[str]:
    """All coadd files below a folder."""
    return sorted(str(path) for path in Path(release).rglob("coadd-*.fits"))


def read_coadd(path: str) -> dict[str, np.ndarray]:
    """Read targets of one coadd that pass the standard cuts: arrays by column, arms merged."""
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        fibermap = hdus["FIBERMAP"].data
        keep = (fibermap["OBJTYPE"] == "TGT") & (fibermap["COADD_FIBERSTATUS"] == 0)
        weighted = np.zeros((len(fibermap), NUM_PIXELS))
        ivar = np.zeros((len(fibermap), NUM_PIXELS))
        for camera, first in FIRST_PIXEL.items():
            if f"{camera}_FLUX" not in hdus:
                continue
            arm = hdus[f"{camera}_IVAR"].data * (hdus[f"{camera}_MASK"].data == 0)
            where = slice(first, first + arm.shape[1])
            weighted[:, where] += hdus[f"{camera}_FLUX"].data * arm
            ivar[:, where] += arm
        flux = np.divide(weighted, ivar, out=np.zeros_like(weighted), where=ivar > 0)
        keep &= ivar.any(axis=1)
        columns = {"targetid": np.array(fibermap["TARGETID"]), "ra": np.array(fibermap["TARGET_RA"])}
        columns["dec"] = np.array(fibermap["TARGET_DEC"])
    columns |= _redshifts(path.replace("coadd-", "redrock-"), columns["targetid"])
    columns |= {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32)}
    return {name: values[keep] for name, values in columns.items()}


def _redshifts(path: str, targetid: np.ndarray) -> dict[str, np.ndarray]:
    if not Path(path).exists():
        return {"z": np.full(len(targetid), np.nan), "spectype": np.full(len(targetid), "")}
    with fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
        table = hdus["REDSHIFTS"].data
        order = np.argsort(table["TARGETID"])
        row = order[np.searchsorted(table["TARGETID"], targetid, sorter=order)]
        return {"z": np.array(table["Z"])[row], "spectype": np.array(table["SPECTYPE"])[row].astype(str)}


def prepared(columns: dict[str, np.ndarray], prep: SpectrumPrep) -> dict[str, np.ndarray]:
    """Normalise as the checkpoint asks: the same function for every system, so scores can be compared."""
    spectra = prepare(columns["flux"], columns["ivar"], columns["z"], prep).spectra
    return columns | {"flux": spectra.flux, "ivar": spectra.ivar}
