import numpy as np
import pytest

from engine.partition import (
    COUNT_ORDER,
    adaptive_pixels,
    healpix_29,
    index_range,
    is_validation,
    pixel_counts,
    split_hash,
    valid_position,
)

BIG = 39627733570388219  # a DESI TARGETID beyond 2**53


def random_sky(num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.uniform(0, 360, num), np.degrees(np.arcsin(rng.uniform(-1, 1, num)))


def test_healpix_equals_hats():
    from hats.pixel_math.spatial_index import compute_spatial_index

    ra, dec = random_sky(1000)
    index = healpix_29(ra, dec)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, compute_spatial_index(ra, dec))


def test_healpix_at_poles_and_wrapped_ra():
    index = healpix_29(np.array([0.0, 360.0, -10.0, 350.0, 77.0]), np.array([0.0, 0.0, 5.0, 5.0, 90.0]))
    assert index[0] == index[1]
    assert index[2] == index[3]
    assert 0 <= index.min() <= index.max() < 12 * 4**29


def test_healpix_of_nothing_is_empty():
    assert healpix_29(np.empty(0), np.empty(0)).shape == (0,)


def test_positions_off_the_sky_are_named():
    ra, dec = np.array([0.0, np.nan, 1.0, 360.5, -180.0]), np.array([0.0, 0.0, 90.1, 0.0, 0.0])
    np.testing.assert_array_equal(valid_position(ra, dec), [True, False, False, False, True])
    with pytest.raises(ValueError, match="3 positions are not on the sky, the first at row 1"):
        healpix_29(ra, dec)


def test_adaptive_pixels_cover_each_row_once_within_the_limit():
    ra, dec = random_sky(5000)
    ra[:3000], dec[:3000] = 10 + ra[:3000] / 360, dec[:3000] / 90
    index = healpix_29(ra, dec)
    counts = {int(pixel): count for pixel, count in pixel_counts(index).items()}
    assert sum(counts.values()) == 5000
    pixels = adaptive_pixels(counts, 300)
    inside = [((lo <= index) & (index < hi)).sum() for lo, hi in (index_range(*p) for p in pixels)]
    assert sum(inside) == 5000
    assert max(inside) <= 300
    assert len({order for order, _ in pixels}) > 1
    assert inside == [sum(counts[fine] for fine in fines) for fines in pixels.values()]
    assert [index_range(*p)[0] for p in pixels] == sorted(index_range(*p)[0] for p in pixels)


def test_adaptive_pixels_equal_those_of_hats():
    from hats.pixel_math.partition_stats import generate_alignment

    ra, dec = random_sky(3000)
    counts = {int(p): n for p, n in pixel_counts(healpix_29(ra, dec)).items()}
    histogram = np.zeros(12 * 4**COUNT_ORDER, np.int64)
    histogram[list(counts)] = list(counts.values())
    aligned = generate_alignment(histogram, COUNT_ORDER, lowest_order=1, threshold=100)
    expected = {(int(t[0]), int(t[1])) for t in aligned if t is not None}
    assert set(adaptive_pixels(counts, 100, min_order=1)) == expected


def test_a_crowded_pixel_of_the_last_order_stays_whole():
    assert adaptive_pixels({5: 1000, 6: 1}, 10) == {(COUNT_ORDER, 5): [5], (COUNT_ORDER, 6): [6]}
    assert adaptive_pixels({}, 10) == {}


def test_split_hash_is_splitmix64():
    # first outputs of the reference implementation for the seeds 0 and 1
    expected = np.array([0xE220A8397B1DCDAF, 0x910A2DEC89025CC1], np.uint64)
    np.testing.assert_array_equal(split_hash(np.array([0, 1])), (expected >> np.uint64(11)) * 2.0**-53)


def test_split_hash_tells_neighbours_above_2_53_apart_and_is_uniform():
    ids = BIG + np.arange(20000)
    values = split_hash(ids)
    assert len(set(values)) == len(ids)
    assert 0 <= values.min() < values.max() < 1
    histogram = np.histogram(values, 10, (0, 1))[0]
    assert np.abs(histogram - 2000).max() < 5 * np.sqrt(2000)
    assert abs(is_validation(ids, 0.1).mean() - 0.1) < 0.01


def test_split_hash_of_negative_ids_and_of_floats():
    assert 0 <= split_hash(np.array([-1]))[0] < 1
    with pytest.raises(TypeError, match="float64"):
        split_hash(np.array([1.0]))
