"""Contaminated rows that a training reads out of staged clean ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.column import Column
from engine.images.columns import pixel_columns
from engine.schema import column_array, matrix, set_column
from engine.storage import Storage
from engine.synthetic.contaminate.rows import Realisations, RealisationsConfig
from engine.train.plan import TrainConfig, TrainData, ordered_files
from engine.train.stream import dataset, realised
from engine.train.stream import staged as staged_stream
from engine.units import FileRef
from tests.cutouts import make_cutouts

SIZE = 32
MAKE = Realisations(RealisationsConfig(realisations=3, snr=(20.0,), seed=5))
COLUMNS = ("science", "error", "mask", "clean", "dx", "dy")


def staged(rows: int = 6, first: int = 0) -> pa.Table:
    """Clean cutouts as `ingest` stages them."""
    batch = {
        name: values[: rows + first] for name, values in make_cutouts(8, SIZE, seed=2, noise=1e-6).items()
    }
    table = pa.table({
        "field": ["a"] * rows, "object_id": np.arange(first, first + rows),
        "split_hash": np.linspace(0, 0.99, rows),
        **{name: batch[name][first:] for name in ("dx", "dy", "pixel_scale")},
    })  # fmt: skip
    for column in pixel_columns(SIZE):
        table = set_column(table, column, column_array(column, batch[column.name][first:]))
    return table


def test_clean_is_what_was_staged_and_science_is_something_else():
    before = staged()
    after = MAKE(before, 0)
    np.testing.assert_array_equal(matrix(after, "clean"), matrix(before, "science"))
    science, error, mask = (matrix(after, name) for name in ("science", "error", "mask"))
    assert (np.abs(science - matrix(after, "clean"))[~mask] > 0).mean() > 0.99
    assert (error[~mask] > 0).all()
    assert not error[mask].any()


def test_the_truth_can_be_had_again():
    before = staged()
    after, truth = MAKE(before, 1), MAKE.seen(before, 1)
    np.testing.assert_array_equal(matrix(after, "science"), truth.science.reshape(6, -1))
    for row in range(6):
        listed = sum(one.flux for one in truth.contaminants[row])
        np.testing.assert_allclose(truth.added[row].sum((1, 2)), listed, rtol=1e-3, atol=1e-2)
    assert any(truth.contaminants)


def test_realisations_differ_and_repeat():
    one, again, other = (matrix(MAKE(staged(), number), "science") for number in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any(axis=1).all()


def test_a_row_does_not_depend_on_the_rows_beside_it():
    whole, part = MAKE(staged(6), 1), MAKE(staged(2, first=3), 1)
    for name in ("science", "error", "mask"):
        np.testing.assert_array_equal(matrix(whole, name)[3:5], matrix(part, name))


def test_objects_of_other_fields_are_contaminated_otherwise():
    table = staged()
    elsewhere = set_column(table, Column("field", "string", "f"), pa.array(["b"] * 6))
    assert (matrix(MAKE(table, 0), "science") != matrix(MAKE(elsewhere, 0), "science")).any(axis=1).all()


def test_no_rows_are_no_rows():
    assert MAKE(staged()[:0], 0).num_rows == 0


def test_what_is_read_is_what_is_staged():
    assert MAKE.reads(("science", "clean", "pixel_scale")) == (
        "science", "pixel_scale", "field", "object_id", "error", "mask", "dx", "dy",
    )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> TrainData:
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(staged(3, first=3 * number), path)
        files.append(FileRef(str(path), path.stat().st_size, str(number)))
    return TrainData(tuple(files), 18, COLUMNS, MAKE)


def test_a_stream_holds_the_columns_asked_for_and_the_split(data):
    (table,) = realised(MAKE, 0, data.files[0].uri, [*COLUMNS, "split_hash"], Storage())
    assert table.column_names == [*COLUMNS, "split_hash"]


def test_a_stream_that_is_read_again_has_the_same_rows(data):
    """Each epoch shows the same realisations, for training and validation."""
    first, second = (
        [next(iter(task())) for task in staged_stream(data, TrainConfig(seed=4), Storage()).get_read_tasks(1)]
        for _ in range(2)
    )
    assert [table.equals(again) for table, again in zip(first, second, strict=True)] == [True] * 6
    assert len({matrix(table, "science").tobytes() for table in first}) == 6


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_epoch_shows_each_row_in_every_realisation(data):
    config = TrainConfig(seed=4)
    rows = list(dataset(data, config, Storage()).iter_batches(batch_size=None, batch_format="pyarrow"))
    wanted = [
        table
        for number in range(3)
        for file in ordered_files(data, config.seed + number)
        for table in realised(MAKE, number, file.uri, [*COLUMNS, "split_hash"], Storage())
    ]
    found = sorted(matrix(pa.concat_tables(rows), "science").tolist())
    assert found == sorted(matrix(pa.concat_tables(wanted), "science").tolist())
    assert len(found) == 18
