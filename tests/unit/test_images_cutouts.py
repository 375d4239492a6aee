import numpy as np
import pytest
from astropy.nddata import Cutout2D

from engine.images.cutouts import centres, coverage, cut, nearest_pixel
from engine.images.planes import Plane, make_plane, onto, rows_needed, weight_to_error, window
from engine.images.wcs import BINNED, NATIVE, REPROJECTED, Grid, Relation, relate

GRID = Grid((40, 50), (20.0, 20.0), (150.0, 2.0), (-1e-5, 0.0, 0.0, 1e-5))


def plane(shape: tuple[int, int] = (40, 50), seed: int = 0, bad: float = 0.02) -> Plane:
    rng = np.random.default_rng(seed)
    science, error = rng.normal(size=shape), rng.uniform(1, 2, shape)
    science[rng.random(shape) < bad] = np.nan
    return make_plane(science, error, None, 1.0)


def cut_all(image: Plane, x: np.ndarray, y: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    where = centres(x, y, size)
    out = tuple(np.full((len(x), size, size), 7, dtype) for dtype in ("f4", "f4", "?"))
    cut(image, where.x0, where.y0, *out)
    return out


@pytest.mark.parametrize("size", [8, 9])
def test_windows_are_those_of_cutout2d_also_at_borders(size: int) -> None:
    image = plane()
    x, y = np.random.default_rng(3).uniform(-0.5, [[49.49], [39.49]], (2, 40))
    x, y = np.append(x, [0, 49, 0, 49]), np.append(y, [0, 0, 39, 39])
    science, error, mask = cut_all(image, x, y, size)
    for i in range(len(x)):
        # Cutout2D puts an even window's centre half a pixel lower than size // 2
        at = (
            nearest_pixel(x[i : i + 1])[0] - (size + 1) % 2 / 2,
            nearest_pixel(y[i : i + 1])[0] - (size + 1) % 2 / 2,
        )
        expected = Cutout2D(np.where(image.mask, np.nan, image.science), at, size, mode="partial").data
        np.testing.assert_array_equal(np.where(mask[i], np.nan, science[i]), expected)
    assert np.all(science[mask] == 0)
    assert np.all(error[mask] == 0)
    assert np.all(error[~mask] >= 1)


def test_source_lies_within_half_a_pixel_of_the_middle() -> None:
    x, y = np.random.default_rng(3).uniform(0, 40, (2, 200))
    where = centres(x, y, 96)
    np.testing.assert_allclose(where.x0 + 48 + where.dx, x, atol=1e-5)
    np.testing.assert_allclose(where.y0 + 48 + where.dy, y, atol=1e-5)
    assert np.abs([where.dx, where.dy]).max() <= 0.5
    assert nearest_pixel(np.array([-0.5, 0.499, 0.5, 1.5])).tolist() == [0, 0, 1, 2]


def test_what_a_window_has_outside_of_the_plane_is_masked() -> None:
    image = plane(bad=0)
    out = [np.full((5, 8, 8), 7, dtype) for dtype in ("f4", "f4", "?")]
    cut(image, np.array([-1, 0, 43, 0, 99]), np.array([0, -1, 0, 33, 99]), *out)
    outside = np.zeros((5, 8, 8), bool)
    outside[0, :, 0] = outside[1, 0] = outside[2, :, 7] = outside[3, 7] = outside[4] = True
    np.testing.assert_array_equal(out[2], outside)
    np.testing.assert_array_equal(out[0][outside], 0)
    np.testing.assert_array_equal(out[0][0, :, 1:], image.science[:8, :7])


def test_window_is_a_view_only_where_it_is_whole() -> None:
    image = plane()
    assert np.shares_memory(window(image, 3, 4, (5, 6)).science, image.science)
    assert not np.shares_memory(window(image, -1, 4, (5, 6)).science, image.science)


def test_blocks_of_an_image_are_calibrated_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = plane((41, 50), bad=0.1)
    monkeypatch.setattr("engine.images.planes.BLOCK_PIXELS", 130)
    parts = plane((41, 50), bad=0.1)
    for name in ("science", "error", "mask"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_pixels_without_data_are_masked_and_zero() -> None:
    science = np.array([[1.0, np.nan, 3.0, 0.0, np.inf, 6.0]])
    error = np.array([[1.0, 1.0, np.nan, 2.0, 1.0, 0.0]])
    made = make_plane(science, error, np.array([[1.0, 1, 1, 1, 1, 1]]), 10.0)
    assert made.mask.tolist() == [[False, True, True, False, True, True]]
    assert made.science.tolist() == [[10, 0, 0, 0, 0, 0]]
    assert made.error.tolist() == [[10, 0, 0, 20, 0, 0]]
    assert make_plane(science, error, np.array([[0.0, 1, 1, 1, 1, 1]]), 1.0).mask[0, 0]
    assert make_plane(science, None, None, 1.0).mask.tolist() == [[False, True, False, True, True, False]]


def test_weight_is_inverse_variance() -> None:
    weight = np.array([4.0, 0.0, -1.0, np.nan])
    np.testing.assert_array_equal(
        weight_to_error(weight), np.array([0.5, np.nan, np.nan, np.nan], np.float32)
    )


def test_native_shift_copies_pixels() -> None:
    image = plane()
    moved = onto(image, Relation(NATIVE, 3, -5), GRID, GRID, 10, 2, (6, 7))
    np.testing.assert_array_equal(moved.science, image.science[5:11, 5:12])
    assert (moved.y0, moved.x0) == (10, 2)


def test_binning_conserves_flux_and_adds_errors_in_quadrature() -> None:
    fine = plane((81, 100))
    coarse = onto(fine, Relation(BINNED, 0, 1), GRID, GRID, 0, 0, (40, 50))
    for row, column in ((0, 0), (13, 27), (39, 49)):
        block = np.s_[2 * row + 1 : 2 * row + 3, 2 * column : 2 * column + 2]
        if fine.mask[block].any():
            assert coarse.mask[row, column]
            assert coarse.science[row, column] == coarse.error[row, column] == 0
        else:
            assert coarse.science[row, column] == pytest.approx(fine.science[block].sum(), rel=1e-5)
            assert coarse.error[row, column] ** 2 == pytest.approx((fine.error[block] ** 2).sum(), rel=1e-5)
    clean = plane((80, 100), bad=0)
    coarse = onto(clean, Relation(BINNED), GRID, GRID, 0, 0, (40, 50))
    assert coarse.science.sum(dtype=float) == pytest.approx(clean.science.sum(dtype=float), abs=1e-2)
    outside = onto(clean, Relation(BINNED), GRID, GRID, -1, 0, (2, 2))
    assert outside.mask.tolist() == [[True, True], [False, False]]


def test_coverage_is_the_usable_share() -> None:
    mask = np.zeros((2, 3, 4, 4), bool)
    mask[1, 2, :2] = True
    assert coverage(mask).tolist() == [[1, 1, 1], [1, 1, 0.5]]


def test_rows_needed_of_each_kind_of_grid() -> None:
    assert rows_needed(Relation(NATIVE, 0, -5), GRID, GRID, (10, 20)) == (5, 15)
    assert rows_needed(Relation(NATIVE, 0, -5), GRID, GRID, (-3, 4)) == (0, 0)
    tall = Grid((80, 100), GRID.crpix, GRID.crval, GRID.cd)
    assert rows_needed(Relation(BINNED, 0, 2), GRID, tall, (10, 50)) == (22, 80)
    turned = Grid((50, 40), (20.5, 20.5), GRID.crval, (0.0, 1e-5, 1e-5, 0.0))
    start, stop = rows_needed(Relation(REPROJECTED), GRID, turned, (0, 40), margin=1)
    assert start == 0  # turned by 90 degrees: y = 38.5 - x, x from -0.5 on
    assert stop in (40, 41)
    assert relate(GRID, turned, "x").resampling == REPROJECTED
