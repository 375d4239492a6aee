"""Morphology of the source of a NIRCam cutout: right in nJy, beside neighbours and bad pixels, and off the middle."""

import numpy as np
import pyarrow as pa
import pytest

from engine.images.bands import BANDS
from engine.images.columns import DX, DY, image_columns, pixel_columns
from engine.images.cutout_morphology import (
    OTHER,
    SOURCE,
    Cutout,
    CutoutMorphologyConfig,
    MeasureCutouts,
    find_segments,
    measure_cutouts,
    measure_segment,
)
from engine.images.morphology import MORPHOLOGY, NOT_DETECTED, QUANTITIES
from engine.schema import arrow_schema, column_array, set_column
from engine.stage import REJECTED, UnitTable, check
from engine.synthetic.field.bands import background_rms_njy, electrons_per_njy
from engine.synthetic.sersic_render import SersicParameters, pixel_arcsec, render

SIZE, BAND = 64, BANDS.index("f444w")
RMS, GAIN = background_rms_njy(0.03)[BAND], electrons_per_njy()[BAND]
RADIUS = 4.6
CONFIG = CutoutMorphologyConfig()


def galaxy(flux: float, index: float, x: float, y: float, radius: float = RADIUS) -> np.ndarray:
    """Sersic galaxy [nJy] of a half-light radius, round, its centre at pixel (x, y)."""
    scale, middle = pixel_arcsec(SIZE), (SIZE - 1) / 2
    values = ((x - middle) * scale, (y - middle) * scale, radius * scale, index, 1.0, 0.0)
    light = render(SersicParameters(*(np.array([value]) for value in values)), SIZE)[0].astype(np.float64)
    return flux * light / light.sum()


def seen(light: np.ndarray, x: float, y: float, seed: int = 0) -> Cutout:
    """The light with the noise of CEERS, white."""
    error = np.sqrt(RMS**2 + light / GAIN)
    science = light + error * np.random.default_rng(seed).standard_normal(light.shape)
    return Cutout(science, error, np.zeros(light.shape, bool), x, y)


def medians(cutouts: list[Cutout]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in measure_cutouts(cutouts, CONFIG).items()}


@pytest.mark.parametrize("index", [1.0, 1.5])
def test_the_sersic_index_comes_back_in_njy(index: float) -> None:
    light = galaxy(1000.0, index, 32.2, 31.8)
    found = medians([seen(light, 32.2, 31.8, seed) for seed in range(3)])
    assert found["sersic_n"] == pytest.approx(index, rel=0.06)
    assert found["sersic_rhalf"] == pytest.approx(RADIUS, rel=0.04)
    assert found["flag"] == found["flag_sersic"] == 0


def test_the_signal_to_noise_of_a_pixel_is_that_of_the_error_map() -> None:
    cutout = seen(galaxy(1000.0, 1.0, 32.0, 32.0), 32.0, 32.0)
    segments = find_segments(cutout, CONFIG)
    once = measure_segment(cutout, segments)
    twice = measure_segment(cutout._replace(error=2 * cutout.error), segments)
    assert twice["sn_per_pixel"] == pytest.approx(once["sn_per_pixel"] / 2, rel=1e-6)
    bright = cutout.science > 3 * cutout.error
    assert once["sn_per_pixel"] == pytest.approx((cutout.science / cutout.error)[bright].mean(), rel=0.35)


def test_images_in_another_unit_have_the_same_shape() -> None:
    cutout = seen(galaxy(1000.0, 1.0, 32.0, 32.0), 32.0, 32.0)
    other = cutout._replace(science=1000 * cutout.science, error=1000 * cutout.error)
    first, second = medians([cutout]), medians([other])
    assert first == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in second.items()}


def test_a_larger_neighbour_is_not_taken_for_the_source() -> None:
    light = galaxy(300.0, 1.0, 32.2, 31.8)
    alone = medians([seen(light, 32.2, 31.8, seed) for seed in range(3)])
    crowded = [seen(light + galaxy(900.0, 1.0, 55.0, 31.8, 10.0), 32.2, 31.8, seed) for seed in range(3)]
    segments = find_segments(crowded[0], CONFIG)
    assert segments is not None
    y, x = np.nonzero(segments == SOURCE)
    assert np.hypot(x.mean() - 32.2, y.mean() - 31.8) < 1
    assert (segments[:, 55] == OTHER).sum() > 10, "the neighbour is left out"
    assert np.sum(segments == OTHER) > np.sum(segments == SOURCE)
    assert medians(crowded)["rhalf_circ"] == pytest.approx(alone["rhalf_circ"], rel=0.25)


def test_masked_pixels_take_no_part() -> None:
    clean = seen(galaxy(1000.0, 1.0, 32.2, 31.8), 32.2, 31.8)
    mask = clean.mask.copy()
    mask[33:36, 34:38] = True  # beside the centre
    whole, masked = medians([clean]), medians([clean._replace(mask=mask)])
    for name in ("sersic_n", "sersic_rhalf"):
        assert masked[name] == pytest.approx(whole[name], rel=0.05)
    science, error = clean.science.copy(), clean.error.copy()
    science[mask], error[mask] = 1e6, 0.0
    hidden = medians([clean._replace(science=science, error=error, mask=mask)])
    assert hidden == {name: pytest.approx(value, nan_ok=True) for name, value in masked.items()}


def test_a_source_that_is_not_in_the_middle_is_the_one_measured() -> None:
    light = galaxy(1000.0, 1.0, 20.0, 44.0) + galaxy(3000.0, 2.5, 45.0, 20.0)
    found = medians([seen(light, 20.0, 44.0, seed) for seed in range(3)])
    assert found["sersic_n"] == pytest.approx(1.0, rel=0.1)
    assert found["rhalf_circ"] == pytest.approx(RADIUS, rel=0.1)


def test_where_the_catalogue_sees_a_source_and_the_image_none_nothing_is_measured() -> None:
    light = galaxy(1000.0, 1.0, 12.0, 12.0)
    elsewhere, empty = seen(light, 40.0, 40.0), seen(0 * light, 32.0, 32.0)
    bad = elsewhere._replace(mask=np.ones(light.shape, bool))
    found = measure_cutouts([elsewhere, empty, bad], CONFIG)
    assert found["flag"].tolist() == [NOT_DETECTED] * 3
    assert all(np.isnan(found[name]).all() for name in QUANTITIES)


def test_a_segment_within_reach_is_the_source() -> None:
    cutout = seen(galaxy(1000.0, 1.0, 32.0, 32.0, 2.0), 32.0, 32.0)
    y, x = np.indices(cutout.mask.shape) - 32
    mask = np.hypot(x, y) < 1.5  # the centre is saturated
    segments = find_segments(cutout._replace(mask=mask), CONFIG)
    assert segments is not None
    assert (segments == SOURCE).sum() > 20
    near = CONFIG.model_copy(update={"reach_px": 1.0})
    assert find_segments(cutout._replace(mask=mask), near) is None


def test_the_stage_measures_the_band_and_place_of_each_row() -> None:
    planes = np.zeros((3, len(BANDS), SIZE, SIZE), np.float32)
    planes[1] = 1.0
    cutout = seen(galaxy(1000.0, 1.0, 32.3, 31.6), 32.3, 31.6)
    planes[0, BAND], planes[1, BAND] = cutout.science, cutout.error
    rows = pa.table({"object_id": [5]})
    for column, values in zip(pixel_columns(SIZE), (*planes[:2], planes[2] > 0), strict=True):
        rows = set_column(rows, column, column_array(column, values.reshape(1, -1)))
    for column, value in ((DX, 0.3), (DY, -0.4)):
        rows = set_column(rows, column, column_array(column, np.array([value], np.float32)))
    stage = CONFIG.stage(SIZE)
    done = stage.open()(UnitTable(rows, arrow_schema(REJECTED).empty_table(), 1)).rows
    alone = measure_cutouts([cutout], CONFIG)
    for column, values in zip(MORPHOLOGY, alone.values(), strict=True):
        assert done[column.name].to_numpy() == pytest.approx(values, rel=1e-3), column.name


def test_the_stage_fits_behind_any_source_of_cutouts() -> None:
    after = check([MeasureCutouts(SIZE)], image_columns(SIZE))
    assert after == (*image_columns(SIZE), *MORPHOLOGY)
