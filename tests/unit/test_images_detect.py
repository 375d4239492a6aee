import numpy as np
import pytest

from engine.images.detect import MESH, REACH, DetectConfig, background, detect
from engine.images.planes import Plane, make_plane


def field(shape: tuple[int, int] = (832, 320), num: int = 60) -> tuple[Plane, np.ndarray]:
    """Gaussian sources of many sizes on noise of 1 and a slope; positions x, y."""
    rng = np.random.default_rng(8)
    image = rng.normal(size=shape) + np.linspace(0, 5, shape[1])
    places = rng.uniform(4, [[shape[1] - 5], [shape[0] - 5]], (2, num))
    y, x = np.indices(shape)
    for (px, py), sigma in zip(places.T, rng.uniform(1.2, 4, num), strict=True):
        image += 60 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    return make_plane(image, np.ones(shape), None, 1.0), places


def part(plane: Plane, start: int, stop: int) -> Plane:
    return Plane(plane.science[start:stop], plane.error[start:stop], plane.mask[start:stop], start, 0)


def test_sources_are_found_where_they_are() -> None:
    plane, places = field()
    found = detect(plane, DetectConfig(thresh=5.0))
    distance = np.hypot(found.x[:, None] - places[0], found.y[:, None] - places[1])
    assert np.median(distance.min(axis=0)) < 0.3
    assert (distance.min(axis=0) < 3).mean() > 0.9


def test_strips_together_find_what_the_whole_finds() -> None:
    plane, _ = field()
    whole = detect(plane, DetectConfig())
    together = []
    for start, stop in ((0, 256), (256, 512), (512, 832)):
        found = detect(part(plane, max(start - REACH, 0), min(stop + REACH, 832)), DetectConfig())
        mine = (found.y_peak >= start) & (found.y_peak < stop)
        together.append(np.stack(found)[:, mine])
    np.testing.assert_allclose(np.hstack(together), np.stack(whole), rtol=0, atol=1e-9)
    assert len(whole.x) > 50


def test_background_follows_a_slope_and_ignores_sources() -> None:
    plane, _ = field(num=20)
    level, spread = background(plane.science, plane.mask)
    slope = np.linspace(0, 5, 320)
    inner = np.s_[MESH:-MESH]
    assert np.abs(level[:, inner] - slope[inner]).mean() < 0.15
    assert np.median(spread) == pytest.approx(1.05, rel=0.1)


def test_cells_without_data_take_no_part() -> None:
    science = np.full((192, 192), 7.0)
    science[:, :64] = np.nan
    plane = make_plane(science, np.ones(science.shape), None, 1.0)
    level, _ = background(plane.science, plane.mask)
    np.testing.assert_allclose(level[:, 64:], 7.0, rtol=1e-6)


def test_masked_image_has_no_sources() -> None:
    plane = make_plane(np.full((80, 80), np.nan), np.ones((80, 80)), None, 1.0)
    assert [len(values) for values in detect(plane, DetectConfig())] == [0, 0, 0, 0]


def test_background_level_changes_nothing_where_it_is_subtracted() -> None:
    plane, _ = field()
    raised = make_plane(plane.science + 100.0, plane.error, None, 1.0)
    assert len(detect(raised, DetectConfig()).x) == len(detect(plane, DetectConfig()).x)
