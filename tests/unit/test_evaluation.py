"""Distances between sets of images: closed forms, the published arithmetic, and clear errors."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from engine.images.measures import g_minus_i
from engine.images.power import modes_of, radial_amplitude, stacked
from models.evaluation import distances, wasserstein
from models.evaluation.distances import PROPERTIES
from models.evaluation.table import SetMeasures, TableConfig, compare
from models.evaluation.verdict import floor


def normal(num: int, seed: int, shift: float = 0.0, sigma: float = 1.0) -> np.ndarray:
    return shift + sigma * np.random.default_rng(seed).normal(size=num)


def sample(num: int, seed: int) -> dict[str, np.ndarray]:
    """Properties well within the cuts."""
    draws = np.random.default_rng(seed).uniform(0.01, 0.1, (len(PROPERTIES), num))
    return dict(zip(PROPERTIES, draws, strict=True))


def test_same_sample_is_at_distance_0_and_a_shift_is_its_length() -> None:
    values = normal(50, 1)
    assert wasserstein.wasserstein(values, values[::-1]) == pytest.approx(0, abs=1e-12)
    assert wasserstein.wasserstein(values, values + 0.3) == pytest.approx(0.3)


def test_shifted_normals_are_shift_by_sigma_apart() -> None:
    real, made = normal(20_000, 1, 5.0, 2.0), normal(20_000, 2, 5.5, 2.0)
    measured = sample(20_000, 3) | {"gini": real}
    found = distances.morphology_distances(measured, measured | {"gini": made})
    assert found["gini"] == pytest.approx(0.25, abs=0.02)
    assert found["asymmetry"] == pytest.approx(0)


def test_line_is_scipys_for_samples_of_different_size() -> None:
    first, second = normal(37, 1), normal(53, 2, 0.4, 1.7)
    assert wasserstein.wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second))


def test_circle_moves_light_the_short_way() -> None:
    near = np.radians([89.0, 88.0]), np.radians([-89.0, -88.0])
    assert wasserstein.circular_wasserstein(*near, np.pi) == pytest.approx(np.radians(3.0), abs=1e-9)
    assert wasserstein.wasserstein(*near) > 3.0, "on a line they are a half turn apart"
    assert wasserstein.circular_wasserstein([0.0], [np.pi / 2], np.pi) == pytest.approx(np.pi / 2)


def test_circle_knows_no_beginning() -> None:
    first, second = normal(40, 1) % np.pi, normal(60, 2, 0.5) % np.pi
    one = wasserstein.circular_wasserstein(first, second, np.pi)
    assert wasserstein.circular_wasserstein(first + 1.1, second + 1.1, np.pi) == pytest.approx(one)
    assert one <= wasserstein.wasserstein(first, second)


def test_histograms_give_the_same_to_a_bin() -> None:
    first, second = normal(500, 1), normal(400, 2, 0.2)
    width = 9.0 / 999
    exact = wasserstein.wasserstein(first, second)
    assert wasserstein.histogram_wasserstein(first, second, *distances.HISTOGRAM) == pytest.approx(
        exact, abs=width
    )


def test_values_outside_of_the_histogram_are_not_dropped_unseen() -> None:
    with pytest.raises(ValueError, match=r"50\.0% of the second sample is not within -5\.0 to 4\.0"):
        wasserstein.histogram_wasserstein(np.zeros(4), np.array([0.0, 0, 5, 5]), *distances.HISTOGRAM)


def test_averages_are_the_published_ones() -> None:
    assert distances.average([11.89], [2.50]) == pytest.approx(7.195)
    assert distances.average([6.72], [5.24]) == pytest.approx(5.98)
    assert distances.average([9.04], [4.83], [1.15, 1.39, 1.63]) == pytest.approx(5.087, abs=1e-3)
    with pytest.raises(ValueError, match="at least one group"):
        distances.average([1.0], [])


def test_averages_follow_from_the_published_cells() -> None:
    """Of StyleGAN: asymmetry, smoothness, concentration, Gini, half-light radius, and the sum of the other three."""
    cells = {
        "Sersic": ([57.93, 4.83, 5.09, 3.05, 8.08], 16.1, 11.89, 2.50, [], 7.19),
        "COSMOS": ([11.41, 5.06, 8.31, 3.26, 2.75], 23.0, 6.72, 5.24, [], 5.98),
        "SKIRT": ([17.09, 4.85, 3.92, 14.76, 5.87], 25.8, 9.04, 4.83, [1.15, 1.39, 1.63], 5.08),
    }
    for five, others, morphology, power, colours, wanted in cells.values():
        eight = [*five, *[others / 3] * 3]
        assert np.mean(eight) == pytest.approx(morphology, abs=0.006)
        groups = [eight, [power], *([colours] if colours else [])]
        assert distances.average(*groups) == pytest.approx(wanted, abs=0.012)


def test_outliers_and_undefined_values_are_left_out_and_counted() -> None:
    measured = sample(30, 1)
    measured["sersic_n"][:2], measured["asymmetry"][1], measured["gini"][5] = 11.0, -1.5, np.nan
    kept = distances.keep(measured)
    assert (kept.num, kept.num_kept, kept.undefined) == (30, 27, 1)
    assert kept.outliers == {"sersic_n": 2, "asymmetry": 1, "smoothness": 0, "rhalf_circ": 0}
    assert all(len(values) == 27 for values in kept.values.values())
    assert kept.told == "27 of 30 kept (1 undefined; outside of the cuts 2 by sersic_n, 1 by asymmetry)"
    assert distances.keep(sample(30, 1)).told == "30 of 30 kept"
    assert distances.cuts_for(64)["rhalf_circ"][1] == 15
    with pytest.raises(ValueError, match="gini were not measured"):
        distances.keep({name: values for name, values in measured.items() if name != "gini"})


def test_images_without_a_colour_are_left_out_of_multi_band_sets_and_counted() -> None:
    measured = sample(30, 1) | {"gini_m20_bulge": normal(30, 2)}
    measured["gini_m20_bulge"][4] = np.nan
    assert distances.keep(measured).num_kept == 30, "one band has no colours"
    measured["g_minus_i"] = normal(30, 3)
    measured["g_minus_i"][:2], measured["gini"][0] = np.nan, np.nan
    kept = distances.keep(measured)
    assert (kept.num, kept.num_kept, kept.undefined, kept.no_colour) == (30, 27, 1, 2)
    assert np.isfinite(kept.values["g_minus_i"]).all()
    assert np.isfinite(kept.values["gini_m20_bulge"]).all()


def test_orientation_is_on_a_line_as_published_unless_asked_for() -> None:
    real, made = sample(100, 1), sample(100, 1)
    real["orientation_centroid"] = np.radians(normal(100, 1, 89.0, 0.1))
    made["orientation_centroid"] = np.radians(normal(100, 2, -89.0, 0.1))
    assert distances.morphology_distances(real, made)["orientation_centroid"] > 100
    circular = distances.morphology_distances(real, made, circular=True)["orientation_centroid"]
    assert circular == pytest.approx(np.radians(2.0) / (np.pi / 12**0.5), rel=0.05)


def test_uniform_orientations_are_near_each_other_either_way() -> None:
    draw = [np.random.default_rng(seed).uniform(-np.pi / 2, np.pi / 2, 5000) for seed in (1, 2)]
    real, made = (sample(5000, 1) | {"orientation_centroid": values} for values in draw)
    for circular in (False, True):
        assert distances.morphology_distances(real, made, circular)["orientation_centroid"] < 0.04


def test_too_few_images_are_an_error_that_says_how_many() -> None:
    with pytest.raises(ValueError, match="asymmetry of the generated set: 5 values, at least 20 are needed"):
        distances.morphology_distances(sample(30, 1), sample(5, 2))
    with pytest.raises(ValueError, match="mode 0 of the real set: 3 values"):
        distances.power_distances([np.ones(3)], [np.ones(30)])
    real = sample(30, 1) | {"gini": np.ones(30)}
    with pytest.raises(ValueError, match=r"gini of the real set is 1\.0 of all images"):
        distances.morphology_distances(real, real)


def test_power_distances_are_in_dex() -> None:
    amplitude = 10 ** normal(400, 1)
    for histogram in (True, False):
        (found,) = distances.power_distances([amplitude], [2 * amplitude], histogram)
        assert found == pytest.approx(np.log10(2), abs=0.009)
    with pytest.raises(ValueError, match="no power in 1 of 400"):
        distances.power_distances([amplitude], [np.where(np.arange(400) == 7, 0, amplitude)])
    with pytest.raises(ValueError, match="2 modes, the generated one 1"):
        distances.power_distances([amplitude, amplitude], [amplitude])


def test_colours_are_told_apart_by_type() -> None:
    num = 60
    bulge, colour = normal(num, 1), normal(num, 2)
    real = {"gini_m20_bulge": bulge, "g_minus_i": colour}
    redder = real | {"g_minus_i": colour + np.where(bulge >= 0, 0.5, 0.1)}
    found = distances.colour_distances(real, redder)
    assert found == pytest.approx({"colour_early": 0.5, "colour_late": 0.1, "bulge": 0.0})
    scaled = distances.colour_distances(real, redder, standardised=True)
    assert scaled["colour_late"] == pytest.approx(0.1 / colour[bulge < 0].std())
    with pytest.raises(ValueError, match="colour_early of the real set: 0 values"):
        distances.colour_distances({**real, "gini_m20_bulge": -np.abs(bulge)}, real)


def test_colour_is_a_ratio_of_fluxes_and_nan_without_flux() -> None:
    g, i = np.ones((2, 3, 3)), np.full((2, 3, 3), 10.0)
    g[1] = -1
    assert g_minus_i(g, i) == pytest.approx([2.5, np.nan], nan_ok=True)


def test_floor_is_that_of_two_normal_samples() -> None:
    """Two samples of N(0, 1) of n each are 1.13 sqrt(1 / n) to 1.2 sqrt(2 / n) / sqrt(2) apart on average."""
    values = normal(4000, 1)
    floor = distances.split_floor(lambda a, b: {"x": wasserstein.wasserstein(values[a], values[b])}, 4000, 20)
    assert 0.5 * (2 / 2000) ** 0.5 < floor["x"][0] < 2 * (2 / 2000) ** 0.5
    assert floor["x"][1] > 0
    assert floor == distances.split_floor(
        lambda a, b: {"x": wasserstein.wasserstein(values[a], values[b])}, 4000, 20
    )
    with pytest.raises(ValueError, match="1 images and 5 repeats"):
        distances.split_floor(lambda a, b: {}, 1)


def measures(num: int, seed: int, scale: float = 1.0) -> SetMeasures:
    images = scale * np.random.default_rng(seed).normal(1.0, 0.5, (num, 24, 24))
    return SetMeasures(sample(num, seed), radial_amplitude(images))


def test_table_has_each_distance_and_averages_the_groups() -> None:
    real, made = measures(60, 1), measures(50, 2, scale=10.0)
    row = compare(real, made)
    assert row["morphology"] == pytest.approx(np.mean([row[name] for name in PROPERTIES]))
    assert row["power"] == pytest.approx(1.0, abs=0.05), "a dex"
    assert row["power_partitions"] == pytest.approx(1.0, abs=0.05)
    assert row["average"] == pytest.approx((row["morphology"] + row["power"]) / 2)
    beside = floor(real, repeats=2).values
    assert beside.keys() == row.keys()
    assert beside["power"][0] < 0.2


def test_table_of_several_bands_has_a_third_group() -> None:
    colours = {"g_minus_i": normal(80, 1), "gini_m20_bulge": normal(80, 2)}
    colours["g_minus_i"][3], colours["gini_m20_bulge"][5] = np.nan, np.nan
    one = measures(80, 1)
    real = SetMeasures({**one.morphology, **colours}, one.spectra)
    row = compare(real, real.take(np.arange(60)), TableConfig(min_samples=10))
    colour = np.mean([row[name] for name in ("colour_early", "colour_late", "bulge")])
    assert row["average"] == pytest.approx(np.mean([row["morphology"], row["power"], colour]))


def of_sizes(seed: int, scale: float = 1.0) -> SetMeasures:
    """Fifty images of 64 pixels, and five of 256, which alone have bins in the second range of frequency."""
    rng = np.random.default_rng(seed)
    spectra = [
        radial_amplitude(scale * rng.normal(1.0, 0.5, shape)) for shape in ((50, 64, 64), (5, 256, 256))
    ]
    return SetMeasures(sample(55, seed), stacked(spectra))


def test_sets_of_images_of_several_sizes_are_compared_in_the_ranges_that_enough_of_them_have() -> None:
    real, made = of_sizes(1), of_sizes(2, scale=10.0)
    assert len(modes_of(real.spectra, "partitions")[1]) == 10
    row = compare(real, made)
    assert row["power"] == pytest.approx(1.0, abs=0.05), "a dex"
    assert row["power_partitions"] == pytest.approx(1.0, abs=0.05)
    first, second = (modes_of(one.spectra, "partitions") for one in (real, made))
    numbers = [number for number in first if number != 1]
    expected = distances.power_distances([first[n] for n in numbers], [second[n] for n in numbers])
    assert row["power_partitions"] == pytest.approx(np.mean(expected))


def test_measures_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 spectra, but morphology of"):
        SetMeasures(sample(4, 1), np.ones((3, 20)))
