"""Sersic images: the published total, astropy's profile, GalSim's pixels, and torch against numpy."""

import subprocess
import sys

import galsim
import numpy as np
import pytest
import torch
from astropy.modeling.models import Sersic2D
from scipy.special import gamma
from scipy.stats import kstest

from engine.synthetic.sersic_render import (
    EXPOSURE_S,
    RANGES,
    TOTAL,
    SersicParameters,
    draw_parameters,
    levels,
    pixel_arcsec,
    points,
    render,
    sersic_b,
)
from engine.synthetic.sersic_torch import draw_parameters as draw_torch
from engine.synthetic.sersic_torch import render_batch


def galaxy(x=0.0, y=0.0, radius=1.0, n=1.0, ratio=1.0, angle=0.0) -> SersicParameters:
    return SersicParameters(*(np.array([value]) for value in (x, y, radius, n, ratio, angle)))


def test_total_is_the_published_one() -> None:
    assert pytest.approx(252.767, abs=5e-4) == TOTAL
    image = render(galaxy())[0].astype(float)
    own_pixel = np.diff(points(256, 1)[:, 0])[0]
    total = image.sum() * own_pixel**2 / EXPOSURE_S
    assert total == pytest.approx(TOTAL, rel=0.01), "a compact galaxy lies within the field"


def test_pixels_are_those_of_the_published_grid() -> None:
    place = points(256, 1)[:, 0]
    assert (place[0], place[-1]) == pytest.approx((-5.098, 5.098))
    assert np.diff(place) == pytest.approx(np.full(255, 10.196 / 255))
    assert points(256, 10).shape == (256, 10)
    assert points(256, 10)[[0, -1], [0, -1]] == pytest.approx([-5.098, 5.098])


def test_series_is_the_exact_constant_nearly() -> None:
    for n in (1.0, 2.5, 4.0):
        exact = galsim.Sersic(n, half_light_radius=1.0).scale_radius ** (-1 / n)
        assert sersic_b(n) == pytest.approx(exact, rel=6e-4)


def test_single_points_are_astropys_profile() -> None:
    """Pixels far from the middle have one point, so astropy's values there are ours."""
    x, y, radius, n, ratio, angle = 0.4, -0.7, 1.3, 2.7, 0.5, 40.0
    image = render(galaxy(x, y, radius, n, ratio, angle))[0] / EXPOSURE_S
    place = points(256, 1)[:, 0]
    major = radius / np.sqrt(ratio)
    model = Sersic2D(1.0, major, n, x, y, 1 - ratio, np.radians(angle))
    expected = model(*np.meshgrid(place, place))
    edge = levels(expected) == 1
    assert edge.mean() > 0.5
    share = image[edge] / expected[edge]
    assert share.std() / share.mean() < 1e-4, "the series of b"
    area = 2 * np.pi * n * np.exp(sersic_b(n)) * sersic_b(n) ** (-2 * n)
    assert share.mean() == pytest.approx(TOTAL / (area * gamma(2 * n) * radius**2), rel=1e-4)


def test_bright_pixels_are_galsims_integrals() -> None:
    """GalSim convolves with the pixel; the middle of a smooth galaxy agrees to the quirks of the grid."""
    image = render(galaxy(radius=2.0, n=1.0, ratio=0.6, angle=30.0))[0] / EXPOSURE_S
    shape = galsim.Exponential(half_light_radius=2.0).shear(q=0.6, beta=30 * galsim.degrees)
    drawn = shape.withFlux(TOTAL).drawImage(nx=256, ny=256, scale=0.04, method="real_space").array / 0.04**2
    inner = slice(88, 168)
    assert np.abs(image[inner, inner] / drawn[inner, inner] - 1).max() < 0.03
    assert np.abs(image[inner, inner] / drawn[inner, inner] - 1).mean() < 0.005


def test_half_of_the_light_is_within_the_half_light_radius() -> None:
    image = render(galaxy(radius=1.0, n=1.0))[0]
    place = points(256, 1)[:, 0]
    inside = np.hypot(place, place[:, None]) < 1.0
    assert image[inside].sum() / image.sum() == pytest.approx(0.5, abs=0.01)


def test_major_axis_points_where_the_angle_says() -> None:
    image = render(galaxy(radius=1.0, ratio=0.4, angle=30.0))[0].astype(float)
    place = points(256, 1)[:, 0]
    u, v = np.meshgrid(place, place)
    xx, yy, xy = (float((image * w).sum()) for w in (u * u, v * v, u * v))
    assert np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) == pytest.approx(30, abs=0.6)


@pytest.mark.parametrize("size", [64, 128])
def test_smaller_sets_are_the_published_one_with_larger_pixels(size: int) -> None:
    parameters = galaxy(0.3, 0.2, 2.0, 1.0, 0.7, 20.0)
    small, full = render(parameters, size)[0], render(parameters)[0]
    binned = full.reshape(size, 256 // size, size, 256 // size).mean(axis=(1, 3))
    assert pixel_arcsec(size) == 0.04 * 256 / size
    assert np.median(np.abs(small / binned - 1)) < 0.03
    assert small.mean() == pytest.approx(binned.mean(), rel=0.02)


@pytest.mark.parametrize("size", [32, 256])
def test_torch_draws_what_numpy_draws(size: int) -> None:
    parameters = draw_parameters(4, np.random.default_rng(2))
    table = torch.tensor(np.stack(parameters, axis=1))
    expected = render(parameters, size)
    assert np.abs(render_batch(table, size, torch.float64).numpy() / expected - 1).max() < 1e-7
    off = np.abs(render_batch(table, size).numpy() / expected - 1)
    assert (off > 1e-5).mean() < 1e-3
    assert off.max() < 1e-2


def test_parameters_fill_the_published_ranges_and_come_again() -> None:
    published = [(-1, 1), (-1, 1), (1, 4), (1, 4), (0.4, 1), (0, 180)]
    assert list(RANGES.values()) == published
    low, high = np.array(published).T
    first = draw_parameters(4000, np.random.default_rng(3))
    again = torch.stack([draw_torch(4000, torch.Generator().manual_seed(1)) for _ in range(2)])
    assert torch.equal(again[0], again[1])
    for drawn in (np.stack(first, axis=1), again[0].numpy()):
        for name, values in zip(RANGES, ((drawn - low) / (high - low)).T, strict=True):
            assert kstest(values, "uniform").pvalue > 1e-4, name
        correlation = np.corrcoef(drawn.T) - np.eye(len(published))
        assert np.abs(correlation).max() < 4 / np.sqrt(4000), "parameters do not depend on each other"


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="axis_ratio of galaxy 0 is 0"):
        render(galaxy(ratio=0.0))
    with pytest.raises(ValueError, match="sersic_n of galaxy 0"):
        render_batch(torch.tensor([[0.0, 0.0, 1.0, -1.0, 0.5, 0.0]]), 8)
    with pytest.raises(ValueError, match=r"shape \(1, 5\), expected \[B, 6\]"):
        render_batch(torch.ones(1, 5), 8)


def test_training_images_need_torch_and_numpy_only() -> None:
    code = (
        "import sys, engine.synthetic.sersic_torch; "
        "sys.exit(any(name in sys.modules for name in ('pyarrow', 'astropy', 'pydantic', 'ray', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
