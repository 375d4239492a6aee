import numpy as np
import pytest

from engine.errors import SourceError
from engine.spectra.coadd import check_grid, merge_arms, usable_cameras
from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS, WAVE_OBS

Arms = dict[str, np.ndarray]


def arms(num: int = 2, flux: float = 1.0, ivar: float = 4.0) -> tuple[Arms, Arms, Arms]:
    shapes = {camera: (num, where.stop - where.start) for camera, where in CAMERA_SLICES.items()}
    return (
        {camera: np.full(shape, flux, np.float32) for camera, shape in shapes.items()},
        {camera: np.full(shape, ivar, np.float32) for camera, shape in shapes.items()},
        {camera: np.zeros(shape, np.int32) for camera, shape in shapes.items()},
    )


def test_cameras_cover_the_grid() -> None:
    flux, ivar, mask = arms()
    merged, weight = merge_arms(flux, ivar, mask)
    assert merged.shape == weight.shape == (2, NUM_PIXELS)
    assert merged.dtype == weight.dtype == np.float32
    np.testing.assert_array_equal(merged, 1.0)
    np.testing.assert_array_equal(np.unique(weight), [4.0, 8.0])
    assert np.count_nonzero(weight[0] == 8.0) == 51 + 126


def test_two_cameras_are_averaged_by_inverse_variance() -> None:
    flux, ivar, mask = arms()
    flux["r"][:], ivar["r"][:] = 4.0, 12.0
    merged, weight = merge_arms(flux, ivar, mask)
    assert merged[0, 2700] == pytest.approx((1 * 4 + 4 * 12) / 16)
    assert weight[0, 2700] == 16.0


def test_masked_pixel_in_an_overlap_leaves_the_other_camera() -> None:
    flux, ivar, mask = arms()
    flux["r"][0, 0], mask["r"][0, 0] = 1e30, 1
    merged, weight = merge_arms(flux, ivar, mask)
    assert (merged[0, 2700], weight[0, 2700]) == (1.0, 4.0)
    assert weight[1, 2700] == 8.0


@pytest.mark.parametrize(
    ("bad_flux", "bad_ivar"),
    [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, np.inf), (1.0, -1.0), (7.0, 0.0), (np.nan, 0.0)],
)
def test_unusable_pixel_has_flux_and_ivar_zero(bad_flux: float, bad_ivar: float) -> None:
    flux, ivar, mask = arms()
    flux["b"][0, 10], ivar["b"][0, 10] = bad_flux, bad_ivar
    merged, weight = merge_arms(flux, ivar, mask)
    assert (merged[0, 10], weight[0, 10]) == (0.0, 0.0)
    assert np.isfinite(merged).all()
    assert np.count_nonzero(weight == 0) == 1


def test_missing_camera_leaves_its_pixels_empty() -> None:
    flux, ivar, mask = ({c: a for c, a in arm.items() if c != "r"} for arm in arms())
    merged, weight = merge_arms(flux, ivar, mask)
    np.testing.assert_array_equal(weight[:, 2751:4900], 0)
    np.testing.assert_array_equal(merged[:, 4900:], 1)


def test_camera_without_mask_has_no_bad_pixels() -> None:
    flux, ivar, _ = arms()
    assert (merge_arms(flux, ivar, {})[1] > 0).all()


def test_no_camera_is_an_error() -> None:
    with pytest.raises(ValueError, match="no camera"):
        merge_arms({}, {}, {})


def test_no_rows_give_no_rows() -> None:
    assert merge_arms(*arms(0))[0].shape == (0, NUM_PIXELS)


def test_inputs_are_left_alone() -> None:
    flux, ivar, mask = arms()
    flux["b"][0, 0] = np.nan
    before = {camera: values.copy() for camera, values in flux.items()}
    merge_arms(flux, ivar, mask)
    for camera, values in before.items():
        np.testing.assert_array_equal(flux[camera], values)


def test_usable_cameras_look_at_ivar_and_mask() -> None:
    _, ivar, mask = arms()
    ivar["b"][0], mask["r"][1] = 0, 2
    usable = usable_cameras(ivar, mask)
    assert usable["b"].tolist() == [False, True]
    assert usable["r"].tolist() == [True, False]
    assert usable["z"].all()


def test_grid_of_the_release_is_accepted() -> None:
    check_grid({c: WAVE_OBS[s].astype(np.float32) for c, s in CAMERA_SLICES.items()}, "f")


@pytest.mark.parametrize("wave", [WAVE_OBS[:2751] + 0.02, WAVE_OBS[:2750], np.full(2751, np.nan)])
def test_another_grid_is_named(wave: np.ndarray) -> None:
    with pytest.raises(SourceError, match="camera b") as error:
        check_grid({"b": wave}, "coadd.fits")
    assert error.value.reason == "wrong_wavelength_grid"
    assert "coadd.fits" in str(error.value)


def test_chosen_rows_come_in_the_order_asked_for() -> None:
    flux, ivar, mask = arms(200)
    for camera in flux:
        flux[camera] *= np.arange(200, dtype=np.float32)[:, None]
    rows = np.array([150, 3, 199, 3])
    merged, weight = merge_arms(flux, ivar, mask, rows)
    whole = merge_arms(flux, ivar, mask)
    np.testing.assert_array_equal(merged, whole[0][rows])
    np.testing.assert_array_equal(weight, whole[1][rows])
    assert merged[:, 10].tolist() == rows.tolist()
