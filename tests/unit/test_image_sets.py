"""Sets of images for `benchmarks.generator_metrics`: read, gone through once, measured by a network, its options."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks import generator_metrics
from benchmarks.gathering import gathered
from benchmarks.image_sets import PIECE, ImageFiles
from benchmarks.measuring import Piece, mapper
from engine.column import Column
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.images.columns import OBJECT_ID, pixel_columns
from engine.images.galaxies import image_column
from engine.images.morphology import PUBLISHED
from engine.images.nearest import NearestConfig, features, nearest_of
from engine.schema import arrow_schema, column_array, set_column
from engine.stage import REJECTED, UnitTable
from engine.storage import Storage
from engine.synthetic.sersic import write_cube
from engine.units import FileRef, Unit, with_ids
from models.evaluation.frechet import frechet_distance, kernel_distance
from models.evaluation.table import SetMeasures
from models.evaluation.verdict import by_network, network_floor
from tests.unit.test_evaluation import sample
from tests.unit.test_verdict import Stand

SPACE = NearestConfig(side=4)


def published(root: Path, images: np.ndarray, column: Column) -> str:
    """Publish images [N, C, S, S] as jobs do, with identifiers from 100 on."""
    rows = set_column(
        pa.table({"object_id": np.arange(100, 100 + len(images))}),
        column, column_array(column, images.astype(np.float32).reshape(len(images), -1)),
    )  # fmt: skip
    rows = rows.cast(arrow_schema([OBJECT_ID, column]))
    (unit,) = with_ids([Unit("unit", (FileRef("/x.fits", 1, "x"),))], {})
    sink = FragmentSink(str(root), Storage().options, (OBJECT_ID, column))
    sink.write(unit, UnitTable(rows, arrow_schema(REJECTED).empty_table(), len(images)))
    config = CatalogConfig(name="set", kind="flat")
    publish(str(root), Storage(), [unit.id], (OBJECT_ID, column), config)
    return str(root)


def all_of(pieces: Iterator[Piece] | ImageFiles) -> tuple[list[int], np.ndarray]:
    parts = list(pieces)
    assert all(len(ids) == len(images) <= PIECE for ids, images in parts)
    return [one for ids, _ in parts for one in ids], np.concatenate([images for _, images in parts])


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 0.1, shape).astype(np.float32)


def test_a_catalogue_of_images_is_read_by_its_manifest(tmp_path: Path) -> None:
    images = noise(21, 1, 16, 16)
    uri = published(tmp_path, images, image_column(16))
    ids, found = all_of(ImageFiles(uri, "cosmos", 16, channels=(3,)))
    np.testing.assert_array_equal(found, images)
    assert ids == [*range(100, 121)]
    some = ImageFiles(uri, size=16, limit=11)
    assert len(all_of(some)[0]) == len(all_of(some)[0]) == 11, "as often as it is gone through"


def test_bands_of_staged_cutouts_are_chosen(tmp_path: Path) -> None:
    images = noise(9, 6, 16, 16)
    uri = published(tmp_path, images, pixel_columns(16)[0])
    np.testing.assert_array_equal(all_of(ImageFiles(uri, size=16))[1], images)
    np.testing.assert_array_equal(all_of(ImageFiles(uri, size=16, channels=(5, 2)))[1], images[:, [5, 2]])
    with pytest.raises(SystemExit, match=r"--channels \[6\] of 6: they are 0 to 5"):
        all_of(ImageFiles(uri, size=16, channels=(6,)))
    with pytest.raises(SystemExit, match="1536 values an image are no channels of 256 x 256: name --size"):
        all_of(ImageFiles(uri))


def test_what_holds_no_images_is_refused(tmp_path: Path) -> None:
    uri = published(tmp_path, noise(2, 1, 4, 4), Column("flux", "float32", "No image", length=16))
    with pytest.raises(SystemExit, match="has no column image or science, there are object_id, flux"):
        all_of(ImageFiles(uri, size=4))


def test_files_in_the_layout_of_a_source_are_read_as_before(tmp_path: Path) -> None:
    images = noise(10, 1, 16, 16)
    write_cube(
        tmp_path / "sersic-0.fits",
        (10, 16, 16),
        images[:, 0],
        {"object_id": np.arange(10)},
        {"PIXSCALE": 0.04},
    )
    np.testing.assert_allclose(all_of(ImageFiles(str(tmp_path), size=16))[1], images)


def test_sets_of_unlike_channels_are_refused_before_anything_is_measured() -> None:
    one, six, five = ([([1], noise(1, num, 16, 16))] for num in (1, 6, 5))
    assert generator_metrics.channels_of({"real": six, "generated": six}, PUBLISHED["cosmos"]) == 6
    with pytest.raises(SystemExit, match="real 6, generated 1; --channels chooses some"):
        generator_metrics.channels_of({"real": six, "generated": one}, PUBLISHED["cosmos"])
    for sets, settings in ((five, "cosmos"), (six, "skirt")):
        with pytest.raises(SystemExit, match="of --source skirt and of no other"):
            generator_metrics.channels_of({"real": sets}, PUBLISHED[settings])


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def measures_of(pieces: Iterator[Piece], settings: object, mapped: object, name: str) -> SetMeasures:
        num = sum(len(ids) for ids, _ in pieces)
        return SetMeasures(sample(num, 1) | {"num": np.arange(num)}, np.ones((num, 20)))

    monkeypatch.setattr("benchmarks.gathering.measures_of", measures_of)


@pytest.mark.usefixtures("measured_here")
def test_a_set_is_gone_through_once_and_its_features_are_those_of_all_images() -> None:
    images = noise(30, 1, 16, 16)
    images[4] = 1.0
    images[25, 0, 0, 0] = np.nan
    seen = 0

    def once() -> Iterator[Piece]:
        nonlocal seen
        for start in range(0, 30, 8):
            seen += 1
            yield [*range(start, min(start + 8, 30))], images[start : start + 8]

    sound = np.delete(images, [4, 25], axis=0)
    found = gathered("set", once(), PUBLISHED["cosmos"], map, SPACE, lambda some: some.mean((2, 3)), most=10)
    np.testing.assert_array_equal(found.all_pooled, features(sound, SPACE))
    np.testing.assert_array_equal(found.pooled, features(sound[:10], SPACE))
    assert found.deep is not None
    np.testing.assert_allclose(found.deep, sound[:10].mean((2, 3)))
    assert (len(found.measures), found.measures.num_unusable, seen) == (10, 1, 4)


def test_the_nearest_by_features_is_the_nearest_of_all_turned_images() -> None:
    images, real = noise(12, 2, 16, 16), noise(9, 2, 16, 16, seed=2)
    images[3] = np.rot90(real[5], 3, (1, 2))[..., ::-1]
    reference = features(real, SPACE)
    turned = [np.rot90(images, n, (2, 3))[..., ::step] for n in range(4) for step in (1, -1)]
    gaps = [np.linalg.norm(features(one, SPACE)[:, None] - reference, axis=2) for one in turned]
    spread = np.sqrt(np.mean((reference - reference.mean(0)) ** 2)) * reference.shape[1] ** 0.5
    distance, row = nearest_of(features(images, SPACE), reference, SPACE.side)
    np.testing.assert_allclose(distance, np.min(gaps, axis=(0, 2)) / spread, atol=1e-5)
    np.testing.assert_array_equal(row, np.min(gaps, axis=0).argmin(1))
    assert (row[3], distance[3] < 1e-3) == (5, True)


def test_a_pool_takes_only_a_few_pieces_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for n in range(40):
            taken.append(n)
            yield n

    with mapper(1, by_ray=False) as mapped:
        results = mapped(abs, items())
        assert next(results) == 0
        assert len(taken) <= 3
        assert list(results) == [*range(1, 40)]


def test_a_floor_of_fewer_images_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert generator_metrics.fewer(50, 50) == ""
    assert generator_metrics.fewer(30, 50) == ", of 30 only"
    assert "the training set has 30 images, 50 are compared" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("measured_here")
@pytest.mark.parametrize("has_training", [True, False])
def test_fid_and_kid_have_a_floor_and_intervals(
    has_training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.jit.script(Stand()).save(str(tmp_path / "network.pt"))
    monkeypatch.setattr(generator_metrics, "tell", lambda *_: None)
    monkeypatch.setattr(generator_metrics, "or_none", lambda make, what="": make() if "FID" in what else {})
    sets = [[([*range(50)], noise(50, 1, 16, 16, seed=seed) ** (1 + 9 * (seed == 2)))] for seed in (1, 2, 3)]
    args = generator_metrics.options().parse_args(
        ["real", "--size=16", "--pool", "--workers=1", "--bootstrap=5", "--repeats=2",
         f"--inception={tmp_path / 'network.pt'}"]
    )  # fmt: skip
    training = sets[2] if has_training else None
    found = generator_metrics.compared(args, PUBLISHED["cosmos"], sets[0], sets[1], training)
    for name in ("fid", "kid"):
        row, beside = found["distances"][name], found["floor"][name]
        assert np.isfinite([*row, beside.value]).all()
        assert row.low < row.value < row.high
        assert row.value > beside.value


def test_distances_by_a_network_are_those_of_its_features() -> None:
    first, second = (np.random.default_rng(seed).normal(size=(60, 4)) for seed in (1, 2))
    found = by_network((first, second + 1), repeats=20)
    assert found["fid"].value == frechet_distance(first, second + 1)
    assert found["kid"].value == kernel_distance(first, second + 1)
    for value in found.values():
        assert value.low < value.value < value.high
    assert [*network_floor(first, 2)] == ["fid", "kid"]
    assert network_floor(first, 2)["fid"][0] < found["fid"].value


def test_scaling_is_refused_where_the_workers_are_a_clusters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setattr("sys.argv", ["generator_metrics", "real", "--scaling", "1", "2"])
    with pytest.raises(SystemExit):
        generator_metrics.main()
    assert "RAY_ADDRESS names a cluster" in capsys.readouterr().err


def test_rates_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaling(args: argparse.Namespace, *_: object) -> dict[int, float]:
        return {workers: 10.0 * workers for workers in args.scaling}

    monkeypatch.setattr(generator_metrics, "scaling", scaling)
    told = ["real", "--scaling", "1", "2", "--pool", "--json", str(tmp_path / "rates.json")]
    monkeypatch.setattr("sys.argv", ["generator_metrics", *told])
    generator_metrics.main()
    assert json.loads((tmp_path / "rates.json").read_text()) == {"images_per_s": {"1": 10.0, "2": 20.0}}
