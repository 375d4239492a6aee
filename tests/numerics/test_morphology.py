"""statmorph as the project calls it: known galaxies come back, failures are flags, and the stage adds its columns."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pytest
from skimage.transform import resize

from engine.errors import SchemaError
from engine.images.galaxies import galaxy_columns, image_column
from engine.images.morphology import (
    FAILED,
    MORPHOLOGY,
    NOT_DETECTED,
    PUBLISHED,
    QUANTITIES,
    MeasureMorphology,
    MorphologyConfig,
    failures,
    measure,
    segment,
)
from engine.images.own_size import size_channel
from engine.schema import arrow_schema, column_array, packed_array, set_column
from engine.stage import REJECTED, UnitTable, check
from engine.synthetic.sersic_render import SersicParameters, pixel_arcsec, render

SIZE = 64
RADIUS, INDEX, RATIO, ANGLE = 1.2, 1.5, 0.6, 30.0


@pytest.fixture(scope="module")
def galaxy() -> np.ndarray:
    values = (0.2, -0.3, RADIUS, INDEX, RATIO, ANGLE)
    return render(SersicParameters(*(np.array([value]) for value in values)), SIZE)[0]


def test_noiseless_sersic_galaxy_comes_back(galaxy: np.ndarray) -> None:
    found = measure([galaxy], [1], PUBLISHED["sersic"])
    major = RADIUS / np.sqrt(RATIO) / pixel_arcsec(SIZE)
    assert found["sersic_n"][0] == pytest.approx(INDEX, rel=0.05)
    assert found["sersic_rhalf"][0] == pytest.approx(major, rel=0.05)
    assert found["sersic_ellip"][0] == pytest.approx(1 - RATIO, abs=0.02)
    assert found["ellipticity_centroid"][0] == pytest.approx(1 - RATIO, abs=0.04)
    assert np.degrees(found["orientation_centroid"][0]) == pytest.approx(ANGLE, abs=2)
    assert abs(found["asymmetry"][0]) < 0.05, "it has a centre"
    assert 2.5 < found["concentration"][0] < 3.5
    assert (
        failures(found)["not_detected"] == failures(found)["failed"] == failures(found)["some_undefined"] == 0
    )


@pytest.mark.parametrize("sigma", [6.0, 10.0])
def test_measures_of_a_gaussian_are_the_closed_forms(sigma: float) -> None:
    """With x = (r / sigma)^2 / 2 brightness is exp(-x), and x is uniform over an area.

    The Petrosian radius, where brightness is a fifth of its mean within, has x / (exp(x) - 1) = 0.2. Gini of values
    that are uniform in their logarithm, from exp(-x) to 1, is their mean difference over twice their mean.
    """
    y, x = np.mgrid[:128, :128] - 63.5
    found = measure([1000 * np.exp(-(x**2 + y**2) / 2 / sigma**2)], [1], MorphologyConfig())
    edge = 2.6603990584636996
    assert edge / np.expm1(edge) == pytest.approx(0.2)
    values = np.linspace(np.exp(-edge), 1, 100_001)
    share = 1 + np.log(values) / edge
    mean_difference = 2 * np.trapezoid(share * (1 - share), values)
    gini = mean_difference / (2 * (1 - np.exp(-edge)) / edge)
    assert found["gini"][0] == pytest.approx(gini, abs=0.005)
    assert found["concentration"][0] == pytest.approx(2.5 * np.log10(np.log(5) / np.log(1.25)), abs=0.01)
    assert found["rhalf_circ"][0] == pytest.approx(sigma * (2 * np.log(2)) ** 0.5, rel=0.002)
    assert found["asymmetry"][0] == pytest.approx(0, abs=1e-4)
    assert found["sersic_n"][0] == pytest.approx(0.5, abs=0.01)


def test_gini_of_a_disc_of_one_brightness_is_0() -> None:
    y, x = np.mgrid[:96, :96] - 47.5
    disc = np.where(np.hypot(x, y) < 30, 100.0, 0.0)
    assert measure([disc], [1], MorphologyConfig())["gini"][0] == pytest.approx(0, abs=0.06), (
        "but for its edge"
    )


def test_images_without_a_galaxy_are_flagged_and_counted(galaxy: np.ndarray) -> None:
    nothing = np.zeros((SIZE, SIZE))
    broken = np.full((SIZE, SIZE), np.nan)
    found = measure([galaxy, nothing, broken], [1, 2, 3], PUBLISHED["sersic"])
    assert all(len(values) == 3 for values in found.values())
    assert set(found["flag"][1:].tolist()) <= {NOT_DETECTED, FAILED}
    assert all(np.isnan(found[name][1:]).all() for name in QUANTITIES)
    counts = failures(found)
    assert counts["not_detected"] + counts["failed"] == 2
    assert counts["some_undefined"] >= 2


def test_segment_is_the_largest_one(galaxy: np.ndarray) -> None:
    image = np.random.default_rng(1).normal(size=(SIZE, SIZE))
    image[5:10, 5:10] += 50
    image[30:50, 30:50] += 20
    mask = segment(image, MorphologyConfig())
    assert mask is not None
    assert mask[40, 40]
    assert not mask[7, 7]


def test_noise_of_a_key_is_the_same_and_others_differ(galaxy: np.ndarray) -> None:
    settings = PUBLISHED["skirt"].model_copy(update={"noise_sigma": float(galaxy.max()) / 50})
    first, again, other = (measure([galaxy], [key], settings)["gini"][0] for key in (1, 1, 2))
    assert first == again != other


def test_stage_adds_its_columns(galaxy: np.ndarray) -> None:
    column = image_column(SIZE)
    rows = pa.table(
        {"object_id": pa.array([5]), "image": packed_array(galaxy.reshape(1, -1))},
        schema=pa.schema([pa.field("object_id", pa.int64(), False), arrow_schema([column]).field(0)]),
    )
    stage = MeasureMorphology(SIZE)
    table = UnitTable(rows, arrow_schema(REJECTED).empty_table(), 1)
    done = stage.open()(table)
    expected = measure([galaxy], [5], stage.config)
    for one, values in zip(MORPHOLOGY, expected.values(), strict=True):
        assert done.rows.schema.field(one.name).equals(arrow_schema([one]).field(0), check_metadata=True)
        assert done.rows[one.name].to_numpy() == pytest.approx(values, nan_ok=True)
    empty = stage.open()(dataclasses.replace(table, rows=rows.slice(0, 0), rows_in=0))
    assert empty.rows.schema.equals(done.rows.schema)
    with pytest.raises(ValueError, match="channel 2 of images with 1 channels"):
        MeasureMorphology(SIZE, 1, PUBLISHED["skirt"])


def test_stage_measures_images_that_say_their_size_at_it(galaxy: np.ndarray) -> None:
    size = 2 * SIZE  # as if it had been half as large before
    large = resize(galaxy, (size, size), order=1)
    images = np.stack([large, large, large, large, np.full_like(large, size_channel(2 * SIZE + 0.5))])
    column = image_column(size, 5)
    rows = set_column(pa.table({"object_id": [5]}), column, column_array(column, images.reshape(1, -1)))
    stage = MeasureMorphology(size, 5, MorphologyConfig(channel=2))
    done = stage.open()(UnitTable(rows, arrow_schema(REJECTED).empty_table(), 1)).rows
    alone = measure([galaxy], [5], stage.config)
    assert done["morph_rhalf_circ"][0].as_py() == pytest.approx(alone["rhalf_circ"][0], rel=0.05), (
        "its own pixels"
    )


def test_stage_fits_behind_any_source_of_galaxies() -> None:
    stage = pickle.loads(pickle.dumps(MeasureMorphology(32, 5, PUBLISHED["skirt"])))
    after = check([stage], galaxy_columns(32, 5))
    assert after == (*galaxy_columns(32, 5), *MORPHOLOGY), "what the galaxy was made with stays"
    with pytest.raises(SchemaError, match="column 'image' is not what the stage requires"):
        check([stage], galaxy_columns(16, 5))
