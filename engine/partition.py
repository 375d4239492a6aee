"""Where a row belongs: on the sky (HEALPix, NESTED) and in training or validation (hash of its key)."""

from collections.abc import Mapping

import numpy as np

from engine.column import Column

HEALPIX_ORDER = 29
"""Order of the spatial index: pixels of 0.4 mas, the finest that fits into int64."""

COUNT_ORDER = 8
"""Order at which rows are counted for partitioning: pixels of 14 arcmin."""

HEALPIX = Column("_healpix_29", "int64", "HEALPix NESTED pixel of order 29 (HATS spatial index)")

_GOLDEN_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def valid_position(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Tell which positions are on the sky.

    Parameters
    ----------
    ra, dec
        ICRS [deg], shape [B].

    Returns
    -------
    numpy.ndarray
        bool [B]: `ra` within -180 to 360 (either convention), `dec` within -90 to 90, neither NaN.
    """
    with np.errstate(invalid="ignore"):
        return (ra >= -180.0) & (ra <= 360.0) & (np.abs(dec) <= 90.0)


def healpix_29(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """HEALPix NESTED pixel of order 29, the index that HATS sorts and partitions by.

    Parameters
    ----------
    ra, dec
        ICRS [deg], shape [B].

    Returns
    -------
    numpy.ndarray
        int64 [B].

    Raises
    ------
    ValueError
        If a position is not on the sky (`valid_position`).

    References
    ----------
    Gorski et al. (2005), ApJ 622, 759, Sect. 5.2: the NESTED scheme.
    """
    from astropy import units  # 1.5 s that jobs without positions need not pay
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    bad = ~valid_position(ra, dec)
    if bad.any():
        raise ValueError(f"{bad.sum()} positions are not on the sky, the first at row {int(bad.argmax())}")
    if not ra.size:
        return np.empty(0, np.int64)
    pixels = lonlat_to_healpix(
        Longitude(ra, units.deg), Latitude(dec, units.deg), HEALPIX_ORDER, num_threads=1
    )
    return np.asarray(pixels).astype(np.int64)


def pixel_counts(index: np.ndarray) -> dict[str, int]:
    """Count rows by pixel of order `COUNT_ORDER`, keyed by the pixel as text (JSON has no int keys).

    Parameters
    ----------
    index
        `healpix_29` of the rows, int64 [B].
    """
    pixels, counts = np.unique(index >> 2 * (HEALPIX_ORDER - COUNT_ORDER), return_counts=True)
    return {str(pixel): int(count) for pixel, count in zip(pixels, counts, strict=True)}


def adaptive_pixels(
    counts: Mapping[int, int], max_rows: int, min_order: int = 0
) -> dict[tuple[int, int], list[int]]:
    """Cut the sky into pixels of at most `max_rows` rows each, as coarse as that allows.

    Parameters
    ----------
    counts
        Rows by pixel of order `COUNT_ORDER`.
    max_rows
        A pixel with more is cut into its four children, down to `COUNT_ORDER`, where it stays whole.
    min_order
        No pixel is coarser than this.

    Returns
    -------
    dict
        `(order, pixel)` to the pixels of `counts` inside it; empty pixels are left out. Sorted along
        the sky.
    """
    result: dict[tuple[int, int], list[int]] = {}
    level = _group(sorted(pixel for pixel, count in counts.items() if count), min_order)
    for order in range(min_order, COUNT_ORDER + 1):
        crowded: list[int] = []
        for pixel, inside in level.items():
            if order < COUNT_ORDER and sum(counts[fine] for fine in inside) > max_rows:
                crowded += inside
            else:
                result[order, pixel] = inside
        level = _group(crowded, order + 1)
    return dict(sorted(result.items(), key=lambda item: item[1][0]))


def _group(fine: list[int], order: int) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for pixel in fine:
        groups.setdefault(pixel >> 2 * max(COUNT_ORDER - order, 0), []).append(pixel)
    return groups


def index_range(order: int, pixel: int) -> tuple[int, int]:
    """First `healpix_29` inside a pixel and first one behind it."""
    shift = 2 * (HEALPIX_ORDER - order)
    return pixel << shift, (pixel + 1) << shift


def split_hash(targetid: np.ndarray) -> np.ndarray:
    """Uniform number of a target, the same for ever, for splits that new data cannot change.

    All spectra of one target share it, whatever survey or program they are from.

    Parameters
    ----------
    targetid
        int64 [B]; never through float, which would merge neighbours above 2**53.

    Returns
    -------
    numpy.ndarray
        float64 [B] in [0, 1).

    References
    ----------
    Steele, Lea & Flood (2014), OOPSLA, 453, Fig. 15: SplitMix64, one step from the state `targetid`.
    """
    ids = np.asarray(targetid)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"targetid must be integers, got {ids.dtype}")
    return (mix(ids.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def mix(values: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 from each value; uint64 of any shape, a permutation of all of them."""
    mixed = values + np.uint64(_GOLDEN_GAMMA)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX_1)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX_2)
    return mixed ^ (mixed >> np.uint64(31))


def is_validation(targetid: np.ndarray, fraction: float) -> np.ndarray:
    """Tell which targets are for validation: those with the smallest `split_hash`.

    Parameters
    ----------
    targetid
        int64 [B].
    fraction
        Share of targets, 0 to 1.

    Returns
    -------
    numpy.ndarray
        bool [B].
    """
    return split_hash(targetid) < fraction
