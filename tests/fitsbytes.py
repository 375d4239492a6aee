"""FITS files as bytes, made by astropy: what our own reader is tested on."""

import io

import numpy as np
from astropy.io import fits

ARMS = {"B": 2751, "R": 2326, "Z": 2881}
CAMERA_IMAGES = [f"{arm}_{name}" for arm in ARMS for name in ("WAVELENGTH", "FLUX", "IVAR", "MASK")]
FIBERMAP_COLUMNS = ["TARGETID", "TARGET_RA", "TARGET_DEC", "COADD_FIBERSTATUS", "OBJTYPE"]


def coadd_bytes(num_rows: int, num_diagonals: int = 11, is_tiled: bool = False) -> bytes:
    """Make a coadd with the HDUs, types and proportions of a DESI release; numbers are noise."""
    rng = np.random.default_rng(20240607)
    hdus = fits.HDUList([fits.PrimaryHDU(), fibermap(num_rows)])
    for arm, num_pixels in ARMS.items():
        shape = (num_rows, num_pixels)
        mask = (rng.random(shape) < 0.01).astype(np.uint32) << 31
        make_mask = fits.CompImageHDU if is_tiled else fits.ImageHDU
        hdus += [
            fits.ImageHDU(np.linspace(3600, 9824, num_pixels), name=f"{arm}_WAVELENGTH"),
            fits.ImageHDU(rng.normal(size=shape).astype("f4"), name=f"{arm}_FLUX"),
            fits.ImageHDU(rng.random(shape).astype("f4"), name=f"{arm}_IVAR"),
            make_mask(mask, name=f"{arm}_MASK"),
            fits.ImageHDU(np.zeros((num_rows, num_diagonals, num_pixels), "f4"), name=f"{arm}_RESOLUTION"),
        ]
    hdus.append(
        fits.BinTableHDU.from_columns([fits.Column("TSNR2_LRG", "E", array=np.ones(num_rows))], name="SCORES")
    )
    return to_bytes(hdus)


def fibermap(num_rows: int) -> fits.BinTableHDU:
    columns = [
        fits.Column("TARGETID", "K", array=39627600000000000 + np.arange(num_rows)),
        fits.Column("TARGET_RA", "D", array=np.linspace(0, 10, num_rows)),
        fits.Column("TARGET_DEC", "D", array=np.linspace(0, 10, num_rows)),
        fits.Column("COADD_FIBERSTATUS", "J", array=np.zeros(num_rows)),
        fits.Column("OBJTYPE", "3A", array=["TGT"] * num_rows),
        fits.Column("PLATE_FILLER", "200E", array=np.zeros((num_rows, 200))),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FIBERMAP")


def to_bytes(hdus: fits.HDUList) -> bytes:
    out = io.BytesIO()
    hdus.writeto(out)
    return out.getvalue()


def image_file(data: np.ndarray, name: str = "X", **header) -> bytes:
    hdu = fits.ImageHDU(data, name=name)
    hdu.header.update(header)
    return to_bytes(fits.HDUList([fits.PrimaryHDU(), hdu]))
