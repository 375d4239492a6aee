import math

import pytest
from astropy import units

from engine.errors import SourceError
from engine.images.calibration import unit_factor

SCALE = 0.03
AREA = math.radians(SCALE / 3600) ** 2


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ({"BUNIT": "MJy/sr", "PIXAR_SR": 2.1e-14}, 21.0),
        ({"BUNIT": "MJy/sr", "PIXAR_A2": SCALE**2}, 1e15 * AREA),
        ({"BUNIT": "MJy/sr"}, 1e15 * AREA),
        ({"BUNIT": "10.0*nanoJansky", "ZP": 28.9, "PHOTFNU": 1e-8}, 10.0),
        ({"BUNIT": " nJy "}, 1.0),
        ({"BUNIT": "uJy"}, 1e3),
        ({"BUNIT": "Jy"}, 1e9),
        ({"BUNIT": "Jy/pix"}, 1e9),
        ({"BUNIT": "mJy/arcsec2"}, 1e6 * SCALE**2),
        ({"PHOTFNU": 1e-8}, 10.0),
        ({"BUNIT": "ELECTRONS/S", "PHOTFNU": 3e-8}, 30.0),
    ],
)
def test_factor_to_njy(header: dict, factor: float) -> None:
    assert unit_factor(header, AREA, "x") == pytest.approx(factor, rel=1e-9)


def test_zero_point_of_the_dja_is_ten_njy() -> None:
    assert unit_factor({"ZP": 28.9}, AREA, "x") == pytest.approx(10.0, rel=1e-12)
    assert unit_factor({"ZP": 28.9}, AREA, "x") == pytest.approx(
        (28.9 * units.ABmag).to_value(units.nJy) * 1, rel=2e-3
    )


def test_default_unit_counts_only_where_the_header_is_silent() -> None:
    assert unit_factor({}, AREA, "x", "MJy/sr") == pytest.approx(1e15 * AREA)
    assert unit_factor({"BUNIT": "nJy"}, AREA, "x", "MJy/sr") == 1.0


@pytest.mark.parametrize(
    "header",
    [{}, {"BUNIT": ""}, {"BUNIT": "furlong"}, {"BUNIT": "m/s"}, {"BUNIT": "ELECTRONS/S"}, {"BUNIT": True}],
)
def test_unknown_unit_is_a_bad_unit(header: dict) -> None:
    with pytest.raises(SourceError, match="BUNIT") as caught:
        unit_factor(header, AREA, "x.fits[SCI]")
    assert caught.value.reason == "bad_unit"


def test_pixel_area_that_contradicts_the_wcs_is_told() -> None:
    with pytest.raises(SourceError, match="not the area of a pixel") as caught:
        unit_factor({"BUNIT": "MJy/sr", "PIXAR_SR": 4 * AREA}, AREA, "x")
    assert caught.value.reason == "bad_unit"
