"""From the unit that a header states to nJy a pixel.

Surface brightness needs the area of a pixel: PIXAR_SR or PIXAR_A2, else that of the WCS. Where both are
there they must agree within `AREA_TOLERANCE`: a mosaic drizzled to other pixels with the area of the
detector's left in its header has fluxes that are wrong by their ratio.

References
----------
Oke & Gunn (1983), ApJ 266, 713: AB magnitudes; 31.4 is the AB zero point of 1 nJy.
JWST pipeline, `photom` step: BUNIT MJy/sr, PIXAR_SR, PIXAR_A2. grizli (DJA): PHOTFNU [Jy], ZP [mag AB].
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

from astropy import units

from engine.errors import SourceError

AB_ZERO_POINT_NJY = 31.4
ARCSEC2_SR = math.radians(1 / 3600) ** 2
AREA_TOLERANCE = 0.1

UNIT_KEYS = ("BUNIT", "PIXAR_SR", "PIXAR_A2", "PHOTFNU", "ZP")
"""Keywords that `unit_factor` looks at."""

_KNOWN = "MJy/sr, 10.0*nanoJansky, nJy, uJy, Jy, or another unit of flux density or surface brightness"


def unit_factor(header: Mapping[str, Any], area_sr: float, where: str, default_unit: str = "") -> float:
    """Find what 1 in the file is in nJy a pixel.

    Parameters
    ----------
    header
        Of the image, with BUNIT and, where known, PIXAR_SR, PIXAR_A2, PHOTFNU [Jy], ZP [mag AB].
    area_sr
        Area of a pixel by the WCS [sr].
    where
        File and HDU, for messages.
    default_unit
        Taken where the header says nothing: no BUNIT, PHOTFNU or ZP.

    Raises
    ------
    SourceError
        With reason `bad_unit`: nothing is said, it is not understood, or areas contradict each other.
    """
    text = str(header.get("BUNIT") or "").strip()
    zero_point = _zero_point(header)
    if zero_point and (not text or _parse(text) is None):
        return zero_point
    text = text or default_unit
    unit = _parse(text) if text else None
    if unit is None:
        hint = "" if text else "If you know the unit, give it as `unit` of the source's settings."
        what = "BUNIT is not known" if text else "BUNIT is absent"
        raise SourceError(what, where, text or "nothing", _KNOWN, hint, "bad_unit")
    if unit.is_equivalent(units.nJy):
        return _convert(unit, units.nJy)
    return _convert(unit, units.nJy / units.sr) * _pixel_area(header, area_sr, where)


def _convert(unit: units.UnitBase, to: units.UnitBase) -> float:
    return float(units.Quantity(1.0, unit).to_value(to))  # pyright: ignore[reportArgumentType] - a scalar


def _parse(text: str) -> units.UnitBase | None:
    """Flux density or surface brightness; None if it is neither. "a pixel" is what we count in anyway."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", units.UnitsWarning)
            unit = units.Unit(text)
    except (ValueError, TypeError):
        return None
    for candidate in (unit, unit * units.pix):
        if candidate.is_equivalent(units.nJy) or candidate.is_equivalent(units.nJy / units.sr):
            return candidate
    return None


def _zero_point(header: Mapping[str, Any]) -> float:
    """Factor by PHOTFNU [Jy] or an AB zero point; 0 where the header has neither."""
    photfnu, zero_point = header.get("PHOTFNU"), header.get("ZP")
    if isinstance(photfnu, int | float) and photfnu > 0:
        return float(photfnu) * 1e9
    if isinstance(zero_point, int | float):
        return 10 ** (0.4 * (AB_ZERO_POINT_NJY - zero_point))
    return 0.0


def _pixel_area(header: Mapping[str, Any], area_sr: float, where: str) -> float:
    stated_sr, stated_a2 = header.get("PIXAR_SR"), header.get("PIXAR_A2")
    if isinstance(stated_sr, int | float) and stated_sr > 0:
        stated = float(stated_sr)
    elif isinstance(stated_a2, int | float) and stated_a2 > 0:
        stated = float(stated_a2) * ARCSEC2_SR
    else:
        return area_sr
    if abs(stated / area_sr - 1) > AREA_TOLERANCE:
        what = "PIXAR_SR or PIXAR_A2 is not the area of a pixel by the WCS"
        raise SourceError(what, where, f"{stated:.4g} sr", f"{area_sr:.4g} sr", reason="bad_unit")
    return stated
