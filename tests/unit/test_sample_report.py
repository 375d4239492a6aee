"""The report of samples, written from what was found; and what it says where nothing could be."""

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from catalogs.sample_report import sample_report
from catalogs.sample_robustness import Robustness
from catalogs.sample_sets import Findings, ImageSet
from engine.checkpoint import Checkpoint
from engine.errors import SourceError
from engine.images.galaxies import image_column
from engine.images.morphology import MEASURES, MORPHOLOGY, MorphologyConfig
from engine.images.nearest import NearestConfig, features
from engine.images.own_size import size_channel
from engine.images.power import radial_amplitude
from engine.schema import column_array, matrix, set_column
from jobs import learned
from jobs import sample_report as job
from jobs.config import AugmentConfig, JobConfig, Place
from models.evaluation.neighbours import Copying
from models.evaluation.table import TableConfig
from models.generators.vae import PRESETS
from tests.blobs import make_blobs

MANIFEST = SimpleNamespace(
    version=3, rows=40, created="2026-11-29", provenance={"model": "image_vae", "checkpoints": {"somewhere": "abc"}}
)  # fmt: skip
SETTINGS = PRESETS["tiny"]


def image_set(seed: int, rows: int = 30) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = make_blobs(rows, 16, seed)["image"].reshape(rows, 16, 16) + 0.01
    values = {column.name: rng.uniform(0.01, 0.1, rows) for column in MEASURES}
    flags = {"flag": np.zeros(rows, np.int16), "flag_sersic": np.zeros(rows, np.int16)}
    return ImageSet(images, values | flags, radial_amplitude(images), images.reshape(rows, -1))


def written(findings: Findings) -> str:
    return sample_report("root", MANIFEST, image_set(1), image_set(2), 1.0, findings)  # pyright: ignore[reportArgumentType]


def test_the_report_shows_all_that_was_found() -> None:
    errors = {alpha: [{"none": 2.0 - alpha, "both": 4.0}] * 2 for alpha in (0.0, 1.0)}
    html = written(
        Findings(
            [("average", "0.0719 [0.06, 0.08]", "0.0120")], (), "", job.FLOOR_OF_SETS, Copying(0.2, 0.3, 0.61, 0.05), "",
            (1900, 47_500), np.array([0.1, 0.2]), Robustness(errors=errors, options={"generator": "<flow>"}),
            left_out="Real images: 29 of 30 kept.",
        )
    )  # fmt: skip
    for part in ("grid", "properties", "power", "distances", "copies", "robustness"):
        assert f'id="{part}"' in html
    for text in ("0.0719 [0.06, 0.08]", "0.61 &plusmn; 0.05", "+50.0 &plusmn; 0.0 %", "&lt;flow&gt;",
                 "as many other real images", "29 of 30 kept"):  # fmt: skip
        assert text in html
    assert re.search(r"nearest of 1,900 of\s+47,500 training images", html)
    assert "<script" not in html


def test_the_report_says_why_something_is_not_known() -> None:
    html = written(
        Findings(
            missing=["no morphology: too few", "no power: why"], no_copies="Copies were not looked for: why.",
            left_out="Real images: 3 of 30 kept.",
        )
    )  # fmt: skip
    assert "Real images: 3 of 30 kept." in html, "why there are too few"
    assert "no morphology: too few" in html
    assert "no power: why" in html
    assert "Copies were not looked for: why." in html
    assert 'id="robustness"' not in html


def config(tmp_path: Path, fraction: float) -> JobConfig:
    place = Place(uri=str(tmp_path / "real"))
    return JobConfig(
        staged=place, augment=AugmentConfig(num_samples=1), train={"validation_fraction": fraction}
    )  # pyright: ignore[reportArgumentType]


def table(rows: int, seed: int, name: str = "image") -> pa.Table:
    column = replace(image_column(16), name=name)
    images = column_array(column, make_blobs(rows, 16, seed)["image"])
    return set_column(pa.table({"split_hash": np.linspace(0, 0.999, rows)}), column, images)


@pytest.mark.parametrize(("fraction", "has_copies"), [(0.5, True), (0.1, False)])
def test_samples_are_compared_with_training_rows_beside_held_out_ones(
    fraction: float, has_copies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = table(60, 1).append_column("object_id", pa.array(range(60)))
    monkeypatch.setattr(learned, "tables_of", lambda *_: [real])
    found, why, searched = job._copying(config(tmp_path, 0.9), SETTINGS, real.slice(30), fraction)
    if has_copies:
        assert searched == (30, 30)
        assert found is not None
        assert found.generated == pytest.approx(0, abs=1e-3), "the samples are the training rows"
        assert found.nearer == 1.0
    else:
        assert found is None
        assert "distances of held-out images: 6 values, at least 20" in why


def test_all_that_was_trained_on_is_searched_table_by_table_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five tables of 20 rows under another name, of which each has 5 that were held out, and one is not finite."""
    tables = [table(20, seed, "science") for seed in range(5)]
    images = matrix(tables[1], "science").copy()
    images[19, 0] = np.nan
    column = replace(image_column(16), name="science")
    tables[1] = set_column(tables[1], column, column_array(column, images))
    tables = [
        one.append_column("object_id", pa.array(range(20 * n, 20 * n + 20))) for n, one in enumerate(tables)
    ]
    monkeypatch.setattr(learned, "tables_of", lambda *_: iter(tables))
    settings, space, place = replace(SETTINGS, image_column="science"), NearestConfig(side=4), Place(uri="x")
    found = learned.learned_from(place, settings, space, 0.25)
    expected = [n for n in range(100) if n % 20 >= 5 and n != 39]
    assert found.ids.tolist() == expected
    whole = np.concatenate([matrix(one, "science") for one in tables]).reshape(-1, 1, 16, 16)
    np.testing.assert_array_equal(found.trained, features(whole[expected], space))
    np.testing.assert_array_equal(found.held_out[:5], features(whole[:5], space))
    assert len(found.held_out) == 25
    few = learned.learned_from(place, settings, space, 0.25, most=20)
    assert few.ids.tolist() == expected[:20]
    assert len(learned.learned_from(place, settings, space, 1.0).ids) == 0


def test_a_report_is_written_beside_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the files hold given by hand: all that lies between reading and HTML."""
    for module in (job, learned):
        monkeypatch.setattr(module, "tables_of", lambda place, *_: [measured_rows(80, len(place.uri))])
    monkeypatch.setattr(job.cluster, "connect", lambda _: nullcontext())
    monkeypatch.setattr(job, "path_of", lambda *_: str(tmp_path / "report.html"))
    place = Place(uri=str(tmp_path / "generated"))
    settings = replace(SETTINGS, size=32, softening=1.0)
    path = job.write(config(tmp_path, 0.1), place, MANIFEST, settings, 0.5)  # pyright: ignore[reportArgumentType]
    html = Path(path).read_text()
    assert re.search(r"<td>average</td><td class=.n.>0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]</td>", html)
    assert re.search(r"<td>recall</td><td class=.n.>[01]\.\d{4} \[0\.\d{4}, [01]\.\d{4}\]</td>", html)
    assert "The median sample is" in html
    assert "40 were not trained on, the others were: there are no more." in html
    assert "Real images: 80 of 80 kept; generated ones: 80 of 80 kept." in html
    assert "between halves of the real set, as there are not enough other real images" in html
    assert re.search(r"nearest of 40 of\s+40 training images", html)
    for label in ("power (released, averaged)", "power (partitions, intended)"):
        assert f"<td>{label}</td>" in html


def test_the_floor_is_of_as_many_other_real_images_where_there_are_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets: list[int] = []

    def distances(real: ImageSet, generated: ImageSet, others: ImageSet | None, config: TableConfig) -> tuple:
        assert others is not None
        sets.extend(len(one.images) for one in (real, generated, others))
        assert not any(np.array_equal(image, other) for image in real.images for other in others.images)
        assert config == TableConfig(size=32)
        return [], ["no distances: not asked for"], "", ""

    real, made = measured_rows(80, 1), measured_rows(25, 2)
    for module in (job, learned):
        monkeypatch.setattr(
            module, "tables_of", lambda place, *_: [real if place.uri.endswith("real") else made]
        )
    monkeypatch.setattr(job.cluster, "connect", lambda _: nullcontext())
    monkeypatch.setattr(job, "path_of", lambda *_: str(tmp_path / "report.html"))
    monkeypatch.setattr(job, "_distances", distances)
    asked = config(tmp_path, 0.5)
    asked = asked.model_copy(update={"augment": AugmentConfig(num_samples=1, report_images=30)})
    place, settings = Place(uri=str(tmp_path / "generated")), replace(SETTINGS, size=32)
    job.write(asked, place, MANIFEST, settings, 0.5)  # pyright: ignore[reportArgumentType]
    assert sets == [30, 25, 25]


def test_the_floor_of_other_real_images_is_lower_than_that_of_halves() -> None:
    settings = replace(SETTINGS, size=32)
    real, made, others = (
        job._measured_set(measured_rows(120, seed), settings, MorphologyConfig()) for seed in (1, 2, 3)
    )
    (whole, *_, of_sets), (halves, *_, of_halves) = (
        job._distances(real, made, beside, TableConfig(size=32)) for beside in (others, None)
    )
    floors = [{name: float(least) for name, _, least in rows} for rows in (whole, halves)]
    assert floors[0]["morphology"] < 0.9 * floors[1]["morphology"]
    assert (of_sets, of_halves) == (job.FLOOR_OF_SETS, job.FLOOR_OF_HALVES)


def test_what_was_held_out_is_what_the_checkpoint_says(tmp_path: Path) -> None:
    asked = config(tmp_path, 0.2)
    trained = {"config": {"train": {"validation_fraction": 0.4}}}
    checkpoint = Checkpoint("image_vae", 1, {}, {}, {}, provenance=trained)
    assert learned.held_out_fraction(asked, checkpoint) == 0.4
    assert learned.held_out_fraction(asked, replace(checkpoint, provenance={})) == 0.2


@pytest.mark.parametrize(("num", "expected"), [(4, [0, 1, 5, 6]), (8, [0, 1, 5, 6, 10, 11, 2, 3])])
def test_samples_are_compared_with_rows_that_were_not_trained_on_first(
    num: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = table(15, 1, "science").set_column(0, "split_hash", pa.array([0.0, 0.1, 0.5, 0.7, 0.9] * 3))
    staged = staged.append_column("object_id", pa.array(range(15)))
    monkeypatch.setattr(job, "tables_of", lambda *_: [staged[:5], staged[5:10], staged[10:]])
    rows, num_held_out = job.held_out_first(Place(uri="x"), "science", num, 0.3)
    assert rows["object_id"].to_pylist() == expected
    assert num_held_out == min(num, 6)
    np.testing.assert_array_equal(matrix(rows, "image")[0], matrix(staged, "science")[0])


def test_images_of_the_bands_of_skirt_have_a_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "map_tasks", map)
    rng = np.random.default_rng(1)
    settings = replace(SETTINGS, num_channels=5, stretched_mean=(0.0,) * 5, stretched_std=(1.0,) * 5)
    column, measured = image_column(16, 5), measured_rows(20, 1)
    images = rng.uniform(1, 2, (20, 5, 16 * 16)).astype(np.float32)
    images[:, 2] = 10 * images[:, 0]
    rows = set_column(measured, column, column_array(column, images.reshape(20, -1)))
    found = job._measured_set(rows, settings, MorphologyConfig())
    np.testing.assert_allclose(found.morphology["g_minus_i"], 2.5, rtol=1e-4)
    assert (
        "g_minus_i" not in job._measured_set(table_of_one(measured), SETTINGS, MorphologyConfig()).morphology
    )


def test_images_that_say_their_size_are_measured_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def measured(images: list[np.ndarray], keys: list[int], how: MorphologyConfig) -> dict[str, np.ndarray]:
        seen.extend(image.shape for image in images)
        return {"gini": np.zeros(len(keys))}

    monkeypatch.setattr("engine.images.measures.measure", measured)
    monkeypatch.setattr(job, "map_tasks", map)
    bands = np.ones((2, 5, 16, 16))
    bands[:, 4] = np.array([size_channel(64.5), size_channel(20.5)])[:, None, None]
    _, of_own_size = job._measures(pa.table({"object_id": [1, 2]}), bands, MorphologyConfig(channel=2))
    job._measures(pa.table({"object_id": [1, 2]}), bands[:, :1], MorphologyConfig())
    assert (~np.isnan(of_own_size)).sum(axis=1).tolist() == [23, 8], "32 and 10 pixels a side"
    assert seen == [(32, 32), (10, 10), (16, 16), (16, 16)]
    named = {"rhalf_circ": np.full(20, 40.0)}
    large = replace(image_set(1, 20), morphology=image_set(1, 20).morphology | named)
    one, five = (
        replace(SETTINGS, size=64, num_channels=n, stretched_mean=(0.0,) * n, stretched_std=(1.0,) * n)
        for n in (1, 5)
    )
    assert "Real images: 0 of 20" in job._left_out(large, large, one), "15 pixels of 64"
    assert "Real images: 20 of 20" in job._left_out(large, large, five), "60 of its own"


def table_of_one(measured: pa.Table) -> pa.Table:
    column = image_column(16)
    return set_column(measured, column, column_array(column, make_blobs(measured.num_rows, 16, 1)["image"]))


def measured_rows(rows: int, seed: int) -> pa.Table:
    """Images with a sky, so that all modes have power, and properties well within the cuts."""
    rng, column = np.random.default_rng(seed), image_column(32)
    images = make_blobs(rows, 32, seed)["image"] + rng.normal(1, 0.1, (rows, 32 * 32))
    values = {one.name: rng.uniform(0.01, 0.1, rows) for one in MORPHOLOGY if one.dtype == "float64"}
    values |= {"morph_flag": np.zeros(rows, np.int16), "morph_flag_sersic": np.zeros(rows, np.int16)}
    facts = {"split_hash": np.linspace(0, 0.999, rows), "object_id": np.arange(rows)}
    return set_column(pa.table(facts | values), column, column_array(column, images.astype(np.float32)))


def reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: pa.Table, made: pa.Table, **asked: bool
) -> str:
    """Write a report of these rows."""
    for module in (job, learned):
        monkeypatch.setattr(
            module, "tables_of", lambda place, *_: [real if place.uri.endswith("real") else made]
        )
    monkeypatch.setattr(job.cluster, "connect", lambda _: nullcontext())
    monkeypatch.setattr(job, "path_of", lambda *_: str(tmp_path / "report.html"))
    settings = config(tmp_path, 0.5)
    settings = settings.model_copy(update={"augment": AugmentConfig(num_samples=1, **asked)})
    place, generator = Place(uri=str(tmp_path / "generated")), replace(SETTINGS, size=32)
    return Path(job.write(settings, place, MANIFEST, generator, 0.5)).read_text()  # pyright: ignore[reportArgumentType]


def test_images_too_faint_for_the_published_histograms_keep_all_but_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = (scaled(measured_rows(60, seed), 1e-6) for seed in (1, 2))
    html = reported(tmp_path, monkeypatch, real, made)
    assert "<td>morphology</td>" in html
    assert "<td>precision</td>" in html
    assert "<td>power" not in html
    assert "no power (released, averaged): 100.0% of the first sample is not within -5.0 to 4.0" in html
    assert "power is by the published histograms" in html
    whole = reported(tmp_path, monkeypatch, real, made, exact_power=True, circular=True)
    assert "<td>power (released, averaged)</td>" in whole
    assert "<td>average</td>" in whole
    assert "Orientation is on a circle; power is exact, not by the published histograms." in whole


def test_images_of_which_nothing_can_be_measured_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = scaled(measured_rows(60, 1), 0.0, rows=3), scaled(measured_rows(60, 2), np.nan, rows=1)
    html = reported(tmp_path, monkeypatch, real, made)
    assert "<td>average</td>" in html
    assert "Real images: 57 of 57 kept" in html
    assert re.search(r"constant in a channel: 3 of 60 real and 1 of 60 generated images", html)
    assert "27 were not trained on" in html, "of the 30 held out"
    with pytest.raises(SourceError, match="60 of 60 real and 0 of 60 generated images"):
        reported(tmp_path, monkeypatch, scaled(real, 0.0), measured_rows(60, 2))


def scaled(table: pa.Table, factor: float, rows: int = 60) -> pa.Table:
    """Multiply the first images by a factor."""
    images = matrix(table, "image").copy()
    images[:rows] *= factor
    return set_column(table, image_column(32), column_array(image_column(32), images))
