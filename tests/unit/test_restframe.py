import numpy as np
import pytest

from engine.spectra.restframe import deredshift, log_grid, pixel_edges, resample


def test_edges_lie_half_way() -> None:
    np.testing.assert_allclose(pixel_edges(np.array([1.0, 2.0, 4.0])), [0.5, 1.5, 3.0, 5.0])


def test_same_grid_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(size=(3, 50)), rng.uniform(1, 2, (3, 50))
    edges = np.linspace(0, 5, 51)
    out = resample(flux, ivar, edges, edges)
    np.testing.assert_allclose(out[0], flux, rtol=1e-12)
    np.testing.assert_allclose(out[1], ivar, rtol=1e-12)


def test_two_pixels_into_one() -> None:
    flux, ivar = np.array([[1.0, 3.0, 5.0, 5.0]]), np.array([[1.0, 4.0, 2.0, 2.0]])
    density, weight = resample(flux, ivar, np.arange(5.0), np.array([0.0, 2.0, 4.0]))
    np.testing.assert_allclose(density, [[2.0, 5.0]])
    np.testing.assert_allclose(weight, [[4 / (1 + 1 / 4), 4 / (1 / 2 + 1 / 2)]])


def test_part_of_a_pixel() -> None:
    density, weight = resample(
        np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3)), np.arange(4.0), np.array([0.5, 2.25])
    )
    assert density[0, 0] == pytest.approx((0.5 * 1 + 2 + 0.25 * 4) / 1.75)
    assert 1 / weight[0, 0] == pytest.approx((0.25 + 1 + 0.0625) / 1.75**2)


def test_pixel_inside_a_pixel_has_its_values() -> None:
    density, weight = resample(
        np.array([[2.0, 8.0]]), np.array([[3.0, 5.0]]), np.arange(3.0), np.array([1.2, 1.4])
    )
    assert density[0, 0] == pytest.approx(8.0)
    assert weight[0, 0] == pytest.approx(5.0)


@pytest.mark.parametrize(("good", "kept"), [(5, True), (4, False)])
def test_half_of_a_pixel_must_be_covered(good: int, kept: bool) -> None:
    ivar = np.zeros((1, 10))
    ivar[0, :good] = 2.0
    flux = np.where(ivar > 0, 3.0, 1e9)
    density, weight = resample(flux, ivar, np.arange(11.0), np.array([0.0, 10.0]))
    assert (density[0, 0], weight[0, 0] > 0) == ((3.0 if kept else 0.0), kept)


def test_outside_the_input_there_is_nothing() -> None:
    density, weight = resample(np.ones((1, 4)), np.ones((1, 4)), np.arange(4.0, 9.0), np.arange(0.0, 13.0))
    np.testing.assert_array_equal(weight[0] > 0, [False] * 4 + [True] * 4 + [False] * 4)
    assert np.isfinite(density).all()


def test_rows_do_not_mix() -> None:
    flux, ivar = np.array([[1.0] * 6, [2.0] * 6]), np.ones((2, 6))
    edges_out = np.array([[0.0, 3.0, 6.0], [1.5, 4.0, 6.5]])
    density, _ = resample(flux, ivar, np.arange(7.0), edges_out)
    np.testing.assert_allclose(density, [[1, 1], [2, 2]])


def test_no_rows() -> None:
    assert resample(np.ones((0, 4)), np.ones((0, 4)), np.arange(5.0), np.arange(3.0))[0].shape == (0, 2)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes"):
        resample(np.ones((1, 4)), np.ones((1, 3)), np.arange(5.0), np.arange(3.0))


@pytest.mark.parametrize("redshift", [-1.0, np.nan, -2.0])
def test_impossible_redshift_is_a_mistake_of_the_caller(redshift: float) -> None:
    wave = np.arange(10.0, 20.0)
    with pytest.raises(ValueError, match="redshift"):
        deredshift(np.ones((1, 10)), np.ones((1, 10)), wave, np.array([redshift]), wave)


def test_grids_must_rise() -> None:
    wave = np.arange(10.0, 20.0)
    with pytest.raises(ValueError, match="increasing"):
        deredshift(np.ones((1, 10)), np.ones((1, 10)), wave, np.zeros(1), wave[::-1])


def test_log_grid_has_equal_velocity_steps() -> None:
    grid = log_grid(2700, 7000, 1000)
    assert (grid[0], grid[-1], grid.size) == (pytest.approx(2700), pytest.approx(7000), 1000)
    assert np.ptp(np.diff(np.log(grid))) < 1e-12
