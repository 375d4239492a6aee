"""Half-light radii against closed forms."""

import numpy as np
import pytest
import torch

from models.scoring.size import LIMIT, half_light_radius, is_truncated

SIZE = 96


def grid(dx: float, dy: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance of sub-pixels from the centre, 8 a side, and their weight in a pixel."""
    step = (np.arange(SIZE * 8) + 0.5) / 8 - 0.5 - SIZE // 2
    return step[None, :] - dx, step[:, None] - dy


def binned(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values.reshape(SIZE, 8, SIZE, 8).mean((1, 3)), dtype=torch.float32)[None]


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.4, -0.3)])
@pytest.mark.parametrize("sigma", [1.5, 3.0, 6.0])
def test_a_gaussian_has_half_of_its_light_within_1_18_sigma(sigma, dx, dy):
    x, y = grid(dx, dy)
    image = binned(np.exp(-0.5 * (x**2 + y**2) / sigma**2))
    found = half_light_radius(image, torch.tensor([dx]), torch.tensor([dy]))
    assert found.item() == pytest.approx(np.sqrt(2 * np.log(2) * (sigma**2 + 1 / 12)), rel=0.03, abs=0.06)


def test_a_uniform_disk_has_it_within_the_root_of_half_its_area():
    x, y = grid(0, 0)
    image = binned((x**2 + y**2 < 20**2).astype(float))
    found = half_light_radius(image, torch.zeros(1), torch.zeros(1))
    assert found.item() == pytest.approx(20 / np.sqrt(2), abs=0.1)


def test_light_beyond_the_limit_does_not_count_and_scale_does_not_matter():
    x, y = grid(0, 0)
    image = np.exp(-np.hypot(x, y) / 4)
    one = binned(image)
    far = one.clone()
    far[0, 5, 5] = 1e6
    assert np.hypot(43, 43) > LIMIT * SIZE
    zero = torch.zeros(1)
    assert torch.equal(half_light_radius(one, zero, zero), half_light_radius(far, zero, zero))
    torch.testing.assert_close(half_light_radius(one, zero, zero), half_light_radius(37 * one, zero, zero))


def test_without_light_there_is_no_radius():
    images = torch.stack([torch.zeros(32, 32), -torch.ones(32, 32)])
    assert half_light_radius(images, torch.zeros(2), torch.zeros(2)).isnan().all()


@pytest.mark.parametrize(("beyond", "expected"), [(0.09, False), (0.11, True)])
def test_an_exponential_disk_is_truncated_if_more_than_a_tenth_of_it_lies_beyond_the_cutout(beyond, expected):
    scales = np.linspace(2, 12, 400)
    limit = LIMIT * SIZE / scales
    scale = scales[np.argmin(np.abs((1 + limit) * np.exp(-limit) - beyond))]
    radius = half_light_radius(binned(np.exp(-np.hypot(*grid(0, 0)) / scale)), torch.zeros(1), torch.zeros(1))
    assert is_truncated(radius, SIZE).item() is expected


def test_what_has_no_radius_is_not_truncated():
    assert not is_truncated(torch.tensor([torch.nan]), SIZE).any()
