"""Flag bits of published rows and reason codes of rejected ones: one registry for code and docs.

A bit means one thing for ever and is never used again. Ranges: 0-7 source, 8-15 preparation, 16-23
model. Upstream masks (ZWARN, COADD_FIBERSTATUS) keep columns of their own.
"""

from typing import NamedTuple


class Flag(NamedTuple):
    """One bit of the `flags` column."""

    bit: int
    name: str
    description: str

    @property
    def value(self) -> int:
        """The bit as an integer to test with `&`."""
        return 1 << self.bit


MISSING_B = Flag(0, "MISSING_B", "no usable pixel in the b camera")
MISSING_R = Flag(1, "MISSING_R", "no usable pixel in the r camera")
MISSING_Z = Flag(2, "MISSING_Z", "no usable pixel in the z camera")
NO_REDSHIFT = Flag(3, "NO_REDSHIFT", "no redrock row for this target: z and class are null")
LOW_COVERAGE = Flag(
    4, "LOW_COVERAGE", "less than half of the pixels that a spectrum or cutout can have are usable"
)
MISSING_BAND = Flag(5, "MISSING_BAND", "a band has no usable pixel here")
PARTIAL_BAND = Flag(6, "PARTIAL_BAND", "part of the cutout has no data in some band")
ERROR_ESTIMATED = Flag(7, "ERROR_ESTIMATED", "no error map: noise measured on the cutout's background")
NORM_FLOORED = Flag(8, "NORM_FLOORED", "flux scale is below the noise: normalised by the noise")
CLIPPED = Flag(9, "CLIPPED", "some normalised pixels were beyond the model's range and clipped")
BEYOND_CALIBRATION = Flag(
    16, "BEYOND_CALIBRATION", "a score is outside everything seen in calibration: tail extrapolated"
)
CLASS_FALLBACK = Flag(
    17, "CLASS_FALLBACK", "too few calibration spectra of this class: percentiles are of all"
)

NOT_SCORED = Flag(18, "NOT_SCORED", "an input band that the model needs is missing: scores are NaN")

LOW_SNR = Flag(19, "LOW_SNR", "too faint for what is said of its shape to be trusted")
BLENDED = Flag(20, "BLENDED", "much light was removed around this object, outside of its aperture")
SNR_FALLBACK = Flag(
    21,
    "SNR_FALLBACK",
    "S/N outside of what calibration has seen, or too few of it: percentiles are of another S/N",
)
TRUNCATED = Flag(
    22,
    "TRUNCATED",
    "a tenth of its light or more lies beyond a third of the cutout's side: its size is too small, its outer shape not seen",
)

FLAGS: tuple[Flag, ...] = (
    MISSING_B, MISSING_R, MISSING_Z, NO_REDSHIFT, LOW_COVERAGE, MISSING_BAND, PARTIAL_BAND, ERROR_ESTIMATED,
    NORM_FLOORED, CLIPPED, BEYOND_CALIBRATION, CLASS_FALLBACK, NOT_SCORED, LOW_SNR, BLENDED,
    SNR_FALLBACK, TRUNCATED,
)  # fmt: skip


class Reason(NamedTuple):
    """Why a file or an object is in `rejected`; `kind` is "cut" (chosen) or "fault" (broken)."""

    code: str
    kind: str
    description: str


REASONS: dict[str, Reason] = {
    reason.code: reason
    for reason in (
        Reason("not_found", "fault", "listed file does not exist"),
        Reason("not_fits", "fault", "file is not FITS"),
        Reason("truncated_file", "fault", "file is shorter than its headers say"),
        Reason("unreadable_file", "fault", "file cannot be read"),
        Reason("unsupported_layout", "fault", "FITS file without the HDUs or columns needed"),
        Reason("wrong_wavelength_grid", "fault", "wavelengths are not the expected grid"),
        Reason("no_camera", "fault", "file holds no camera at all"),
        Reason("no_usable_pixel", "fault", "every pixel is masked, NaN or has zero ivar"),
        Reason("bad_position", "fault", "right ascension or declination is not a number"),
        Reason("no_redshift", "fault", "the model needs a redshift and there is none"),
        Reason("missing_band", "fault", "a band that is asked for has no file"),
        Reason("bad_wcs", "fault", "no celestial WCS, or one that does not fit that of the other bands"),
        Reason("bad_unit", "fault", "unit of the pixels (BUNIT) is absent or unknown"),
        Reason("not_finite", "fault", "image has pixels that are NaN or infinite"),
        Reason("constant_image", "fault", "all pixels of the image are equal"),
        Reason("wrong_size", "fault", "image is not of the size of its set"),
        Reason("worker_died", "fault", "each worker that had its unit in hand was killed or crashed"),
        Reason("duplicate_key", "fault", "same key as a better row"),
        Reason("too_small", "cut", "image is smaller than asked for"),
        Reason("off_mosaic", "cut", "position is outside the mosaic"),
        Reason("negative_targetid", "cut", "sky or stuck fibre of an old production"),
        Reason("sky_fibre", "cut", "OBJTYPE is not a target"),
        Reason("fiberstatus", "cut", "COADD_FIBERSTATUS has a bit that is not allowed"),
        Reason("zwarn", "cut", "ZWARN has a bit that is not allowed"),
        Reason("min_exposures", "cut", "fewer exposures than asked for"),
    )
}


def decode(value: int) -> list[str]:
    """Names of the bits set in a `flags` value."""
    return [flag.name for flag in FLAGS if value & flag.value]
