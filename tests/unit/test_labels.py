"""Classes of objects, from catalogues to the column `label`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import validate
from engine.errors import ConfigError
from engine.sources.nircam_catalogue import read_catalogue
from engine.sources.nircam_config import CatalogueConfig, LabelConfig
from engine.sources.stamps import StampsConfig, StampsSource
from engine.storage import Storage
from engine.units import FileRef


def labels(path: Path, text: str, **settings: object) -> list[int]:
    """Labels of a catalogue in CSV with the columns ra, dec and those of `text`."""
    file = path / "sources.csv"
    file.write_text("\n".join(f"{10 + n if n else 'ra'},{'1' if n else 'dec'},{row}" for n, row in
                              enumerate(text.split())))  # fmt: skip
    return read(file, **settings)


def read(file: Path, **settings: object) -> list[int]:
    config = CatalogueConfig(uri=str(file), label=LabelConfig.model_validate({"column": "class", **settings}))
    ref = FileRef(str(file), file.stat().st_size, str(file.stat().st_mtime_ns))
    return read_catalogue(Storage(), ref, config, "").label.tolist()


def test_names_become_numbers_and_empty_ones_are_unknown(tmp_path):
    assert labels(tmp_path, 'class disk spheroid "" peculiar ambiguous') == [1, 0, -1, 0, -1]


def test_numbers_are_taken_as_they_are(tmp_path):
    assert labels(tmp_path, "class 1 0 1 -1".replace("-1", "")) == [1, 0, 1]
    assert labels(tmp_path, "class 2 0", values={"spiral": 2, "other": 0}) == [2, 0]


def test_only_objects_that_a_column_vouches_for_have_a_label(tmp_path):
    assert labels(tmp_path, "class,sure disk,True spheroid,False disk, disk,True", where="sure") == [
        1,
        -1,
        -1,
        1,
    ]


def test_classes_that_are_not_named_are_an_error_that_names_them(tmp_path):
    with pytest.raises(
        ConfigError, match=r"column 'class' holds classes without a label.*star.*disk = 1.*-1"
    ):
        labels(tmp_path, "class disk star")
    assert labels(tmp_path, "class disk star", values={"disk": 1, "star": -1}) == [1, -1]


def test_a_column_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"no column for label.column = 'class'"):
        labels(tmp_path, "morphology disk")
    with pytest.raises(ConfigError, match=r"label.where = 'sure'"):
        labels(tmp_path, "class disk", where="sure")


def test_null_and_not_a_number_are_unknown(tmp_path):
    file = tmp_path / "sources.parquet"
    table = {"ra": [1.0, 2.0], "dec": [1.0, 2.0]}
    pq.write_table(pa.table(table | {"class": pa.array([None, "disk"])}), file)
    assert read(file) == [-1, 1]
    pq.write_table(pa.table(table | {"class": pa.array([np.nan, 1.0])}), file)
    with pytest.raises(ConfigError, match=r"classes without a label.*1\.0"):
        read(file)


def test_labels_beyond_the_column_are_refused():
    with pytest.raises(ConfigError, match=r"huge = 200.*0 to 127"):
        validate(LabelConfig, {"column": "class", "values": {"huge": 200}}, "here")


def test_confident_classes_of_real_galaxies(shared_data):
    """Ferreira et al. (2023): 13 of the 74 have a confident class."""
    label = LabelConfig(column="class", where="confident")
    config = StampsConfig(size=64, unit="MJy/sr", z="redshift", label=label, unit_rows=8)
    source = StampsSource(str(shared_data / "jwst" / "ceers"), config=config)
    unit = next(iter(source.plan()))
    rows = source.read(unit).rows
    given = dict(zip(rows["object_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    assert given[10983] == -1
    assert given[11097] == 1
