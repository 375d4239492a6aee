import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from engine.errors import SourceError
from engine.images.wcs import BINNED, NATIVE, REPROJECTED, Grid, grid_of, relate

ANGLE = np.radians(49.7)
STEP = 0.03 / 3600


def make(scale: float = 1.0, shape: tuple[int, int] = (300, 400), **changes) -> fits.Header:
    """A rotated TAN header; `scale` multiplies the pixel and keeps the borders where they are."""
    cd = STEP * scale * np.array([[-np.cos(ANGLE), np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
    cards = {"NAXIS": 2, "NAXIS1": int(shape[1] / scale), "NAXIS2": int(shape[0] / scale)}
    cards |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRVAL1": 214.825, "CRVAL2": 52.825, "RADESYS": "ICRS"}
    cards |= {"CRPIX1": (6503.5 - 0.5) / scale + 0.5, "CRPIX2": (-3112.5 - 0.5) / scale + 0.5}
    cards |= {f"CD{i + 1}_{j + 1}": cd[i, j] for i in range(2) for j in range(2)}
    return fits.Header(cards | changes)


def grid(*args, **changes) -> Grid:
    return grid_of(make(*args, **changes), "x")


def test_positions_are_those_of_astropy_and_come_back() -> None:
    x, y = np.random.default_rng(1).uniform(-200, 600, (2, 50))
    ra, dec = grid().to_sky(x, y)
    sky = WCS(make()).pixel_to_world(x, y)
    np.testing.assert_allclose([ra, dec], [sky.ra.deg, sky.dec.deg], rtol=0, atol=1e-11)
    np.testing.assert_allclose(grid().to_pixel(ra, dec), [x, y], rtol=0, atol=1e-6)


def test_scale_and_window() -> None:
    assert grid().pixel_scale == pytest.approx(0.03, rel=1e-12)
    assert grid().area_sr == pytest.approx(np.radians(STEP) ** 2, rel=1e-12)
    part = grid().window(-7, 30, (10, 20))
    np.testing.assert_allclose(
        part.to_sky(np.array([4]), np.array([5])), grid().to_sky([34], [-2]), atol=1e-12
    )


def test_pc_with_cdelt_is_the_same_grid_as_cd() -> None:
    header = make()
    for i in (1, 2):
        header[f"CDELT{i}"] = STEP
        for j in (1, 2):
            header[f"PC{i}_{j}"] = header.pop(f"CD{i}_{j}") / STEP
    other = grid_of(header, "x")
    assert other.cd == pytest.approx(grid().cd, rel=1e-12)
    assert (other.crpix, other.crval, other.shape) == (grid().crpix, grid().crval, grid().shape)


def test_far_side_of_the_sky_has_no_pixel() -> None:
    x, y = grid().to_pixel(np.array([214.825, 34.825, 214.825, np.nan]), np.array([52.825, -52.825, 95.0, 0]))
    assert np.isfinite(x).tolist() == np.isfinite(y).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"CTYPE1": "", "CTYPE2": ""},
        {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
        {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
        {"CD1_1": 0.0, "CD1_2": 0.0},
        {"CD1_1": 1.0, "CD2_2": 1.0},
        {"RADESYS": "FK4"},
        {"LONPOLE": 90.0},
    ],
)
def test_other_wcs_is_bad(changes: dict) -> None:
    with pytest.raises(SourceError) as caught:
        grid(**changes)
    assert caught.value.reason == "bad_wcs"


def test_header_without_wcs_is_bad() -> None:
    with pytest.raises(SourceError, match="celestial") as caught:
        grid_of(fits.Header({"NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5}), "x")
    assert caught.value.reason == "bad_wcs"


def test_shifted_crop_of_a_grid_is_native() -> None:
    relation = relate(grid(), grid().window(-12, 31, (50, 60)), "x")
    assert (relation.resampling, relation.x0, relation.y0) == (NATIVE, -31, 12)


def test_half_pixels_with_common_borders_are_binned() -> None:
    relation = relate(grid(), grid(scale=0.5), "x")
    assert (relation.resampling, relation.x0, relation.y0) == (BINNED, 0, 0)
    fine = grid(scale=0.5).window(6, -9, (700, 700))
    relation = relate(grid(), fine, "x")
    assert (relation.resampling, relation.x0, relation.y0) == (BINNED, 9, -6)
    x, y = fine.to_pixel(*grid().to_sky([20.0], [30.0]))
    assert (x[0], y[0]) == pytest.approx((2 * 20 + 9 + 0.5, 2 * 30 - 6 + 0.5), abs=1e-4)


@pytest.mark.parametrize(
    "band",
    [make(scale=2.0), make(CRVAL1=214.826), make(CD1_1=make()["CD1_1"] * 1.001), make(CRPIX1=6503.8)],
    ids=["coarser", "shifted", "stretched", "part of a pixel"],
)
def test_other_grids_are_reprojected(band: fits.Header) -> None:
    assert relate(grid(), grid_of(band, "x"), "x").resampling == REPROJECTED


@pytest.mark.parametrize(
    "changes", [{"CRVAL1": 215.9}, {"CRVAL1": 34.8, "CRVAL2": -52.8}, {"CRPIX1": 9000.5}]
)
def test_other_place_on_the_sky_is_a_bad_wcs(changes: dict) -> None:
    with pytest.raises(SourceError, match="overlap") as caught:
        relate(grid(), grid(**changes), "x")
    assert caught.value.reason == "bad_wcs"
