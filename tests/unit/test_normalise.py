import numpy as np
import pytest

from engine.flags import CLIPPED, NORM_FLOORED
from engine.spectra.normalise import normalise, row_median, thinned_median


def test_median_is_of_valid_values_only() -> None:
    values = np.array([[1.0, 2.0, 3.0, 100.0], [4.0, 4.0, 9.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
    valid = np.array([[True, True, True, False], [True] * 4, [False] * 4])
    np.testing.assert_array_equal(row_median(values, valid), [2.0, 4.0, np.nan])


def test_thinned_median_falls_back_on_all_pixels() -> None:
    values = np.arange(12.0).reshape(1, 12).repeat(3, axis=0)
    valid = np.ones(values.shape, bool)
    valid[1, ::4] = False
    valid[2] = False
    np.testing.assert_array_equal(thinned_median(values, valid), [4.0, 6.0, np.nan])


def test_spectrum_is_divided_by_its_median() -> None:
    flux = np.tile(np.linspace(8.0, 12.0, 101, dtype=np.float32), (3, 1))
    ivar = np.full_like(flux, 100.0)
    flux[:, ::10], ivar[:, ::10] = 0, 0
    done = normalise(flux, ivar, 1.0, -20, 200)
    assert done.norm[0] == pytest.approx(10.0, rel=0.01)
    good = ivar > 0
    np.testing.assert_allclose(done.flux[good], (flux / done.norm[:, None])[good], rtol=1e-6)
    np.testing.assert_allclose(done.ivar, ivar * done.norm[:, None] ** 2, rtol=1e-6)
    assert not done.flux[~good].any()
    assert not done.flags.any()


@pytest.mark.parametrize("level", [0.0, -5.0, 0.1])
def test_scale_is_never_below_the_noise(level: float) -> None:
    flux = np.full((1, 80), level, np.float32)
    done = normalise(flux, np.full((1, 80), 4.0, np.float32), 3.0, -20, 200)
    assert done.norm[0] == pytest.approx(3.0 * 0.5)
    assert done.flags[0] == NORM_FLOORED.value
    assert done.flux[0, 0] == pytest.approx(level / 1.5)


def test_extreme_pixels_are_clipped_and_flagged() -> None:
    flux = np.ones((2, 80), np.float32)
    flux[0, 3], flux[0, 4] = 1e6, -1e6
    done = normalise(flux, np.full((2, 80), 1e4, np.float32), 1.0, -20, 200)
    assert (done.flux[0, 3], done.flux[0, 4]) == (200, -20)
    assert done.flags.tolist() == [CLIPPED.value, 0]
    assert done.ivar[0, 3] == done.ivar[0, 5]


def test_empty_spectrum_stays_zero() -> None:
    done = normalise(np.zeros((1, 16), np.float32), np.zeros((1, 16), np.float32), 1.0, -20, 200)
    assert done.norm[0] == 1.0
    assert not done.flux.any()
    assert not done.ivar.any()


def test_brightness_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    flux = rng.normal(5, 1, (4, 200)).astype(np.float32)
    ivar = rng.uniform(1, 2, (4, 200)).astype(np.float32)
    one, other = normalise(flux, ivar, 1.0, -20, 200), normalise(16 * flux, ivar / 256, 1.0, -20, 200)
    np.testing.assert_allclose(one.flux, other.flux, rtol=1e-6)
    np.testing.assert_allclose(one.ivar, other.ivar, rtol=1e-6)
