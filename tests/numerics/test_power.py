"""Power spectra of known fields, and the published ways to divide them."""

import numpy as np
import pytest

from engine.images.power import modes_of, partition_of_bins, radial_amplitude, stacked


def test_white_noise_is_flat_at_its_level() -> None:
    """|F| of real white noise is Rayleigh: its mean is sqrt(pi) / 2 of sigma S, here over S squared."""
    size, sigma = 64, 3.0
    images = np.random.default_rng(1).normal(0, sigma, (60, size, size))
    mean = radial_amplitude(images).mean(axis=0)
    assert mean.shape == (46,)
    assert mean[1:45] == pytest.approx(np.full(44, np.sqrt(np.pi) / 2 * sigma / size), rel=0.08)
    assert mean[3:40].mean() == pytest.approx(np.sqrt(np.pi) / 2 * sigma / size, rel=0.01)


def test_sinusoid_is_in_one_bin_and_constant_in_the_first() -> None:
    size, wave = 32, 5
    x = np.arange(size)
    image = np.broadcast_to(2.0 + 4.0 * np.cos(2 * np.pi * wave * x / size), (1, size, size))
    (spectrum,) = radial_amplitude(image)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.fftfreq(size, 1 / size))).astype(
        int
    )
    assert spectrum[wave] == pytest.approx(2 * 2.0 / (radius == wave).sum()), (
        "half of the amplitude at each sign"
    )
    assert spectrum[0] == pytest.approx(2.0)
    assert np.delete(spectrum, [0, wave]) == pytest.approx(0, abs=1e-12)


def test_spectrum_does_not_change_with_shifts_and_quarter_turns() -> None:
    image = np.random.default_rng(2).normal(size=(1, 20, 20))
    expected = radial_amplitude(image)
    assert radial_amplitude(np.roll(image, (3, 7), (1, 2))) == pytest.approx(expected)
    assert radial_amplitude(np.rot90(image, axes=(1, 2))) == pytest.approx(expected)


def test_released_modes_are_the_first_15_bins() -> None:
    spectra = np.arange(2 * 46.0).reshape(2, 46)
    modes = modes_of(spectra, "released")
    assert [mode.tolist() for mode in modes.values()] == [[float(k), 46.0 + k] for k in range(15)]


def test_partitions_cover_all_bins_and_widen() -> None:
    mode = partition_of_bins(182)
    assert mode[0] == 0
    assert (np.diff(mode) >= 0).all()
    counts = np.bincount(mode, minlength=15)
    assert (counts > 0).all()
    assert mode[-1] == 14
    assert (np.diff(counts[3:]) >= -1).all(), "wider and wider"
    assert sum(len(values) for values in modes_of(np.ones((3, 182)), "partitions").values()) == 3 * 182


def test_partitions_are_the_published_ones() -> None:
    """Bins a range as the rule of the released code gives them to images of 256 pixels."""
    counts = np.bincount(partition_of_bins(182))
    assert counts.tolist() == [1, 2, 3, 4, 7, 8, 10, 12, 14, 16, 17, 20, 21, 23, 24]


@pytest.mark.parametrize(("size", "num"), [(64, 14), (128, 14), (256, 15)])
def test_ranges_without_a_bin_are_left_out(size: int, num: int) -> None:
    modes = modes_of(radial_amplitude(np.ones((2, size, size))), "partitions")
    assert len(modes) == num
    assert all(len(mode) for mode in modes.values())


@pytest.mark.parametrize("size", [32, 33])
def test_the_bins_of_odd_sizes_are_about_frequency_0_too(size: int) -> None:
    x = np.arange(size)
    image = 2.0 + 4.0 * np.cos(2 * np.pi * 5 * x / size)
    (spectrum,) = radial_amplitude(np.broadcast_to(image, (1, size, size)))
    assert spectrum[0] == pytest.approx(2.0)
    assert np.delete(spectrum, [0, 5]) == pytest.approx(0, abs=1e-12)
    assert len(spectrum) == np.floor((size // 2) * np.sqrt(2)) + 1


def test_images_of_several_sizes_share_modes_by_frequency() -> None:
    """Noise of one pixel scale: each image's bins go where its own division puts them, and padding nowhere."""
    rng = np.random.default_rng(1)
    sizes = [24, 64, 129, 256]
    alone = [radial_amplitude(rng.normal(size=(1, size, size))) for size in sizes]
    together = stacked(alone)
    assert together.shape == (4, 182)
    released, partitions = (modes_of(together, variant) for variant in ("released", "partitions"))
    for number in range(15):
        assert released[number].tolist() == [one[0, number] for one in alone]
        parts = [modes_of(one, "partitions").get(number, np.empty(0)) for one in alone]
        assert sorted(partitions[number]) == sorted(np.concatenate(parts))
    assert sum(map(len, partitions.values())) == sum(one.size for one in alone)


def test_an_image_with_few_bins_takes_part_in_those_that_it_has() -> None:
    spectra = stacked([np.ones((1, 2)), np.full((2, 46), 3.0)])
    assert [len(mode) for mode in modes_of(spectra, "released").values()] == [3, 3, *[2] * 13]


def test_small_or_oblong_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 5, 6\), expected \[B, S, S\]"):
        radial_amplitude(np.ones((1, 5, 6)))
    with pytest.raises(ValueError, match="spectra have 12 bins, 15 are needed"):
        modes_of(radial_amplitude(np.ones((1, 16, 16))), "released")
