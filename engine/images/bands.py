"""The six wide NIRCam bands, in the one order that every array of this project keeps."""

from typing import Literal

Band = Literal["f115w", "f150w", "f200w", "f277w", "f356w", "f444w"]

BANDS: tuple[Band, ...] = ("f115w", "f150w", "f200w", "f277w", "f356w", "f444w")
SHORT_BANDS, LONG_BANDS = BANDS[:3], BANDS[3:]

PIVOT_UM: dict[str, float] = {
    "f115w": 1.154, "f150w": 1.501, "f200w": 1.990, "f277w": 2.786, "f356w": 3.563, "f444w": 4.421,
}  # fmt: skip
"""Pivot wavelengths [um]. JWST User Documentation, "NIRCam Filters" (STScI)."""
