import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from engine.column import Column
from engine.commit import hats, parquet
from engine.partition import COUNT_ORDER, HEALPIX
from engine.schema import conform, list_array

COLUMNS = (
    HEALPIX,
    Column("ra", "float64", "Right ascension", "deg", ucd="pos.eq.ra;meta.main"),
    Column("name", "string", "Any <text> & more"),
    Column("latent", "float32", "Three numbers", length=3),
    Column("good", "bool", "A flag"),
)


def make_rows(num: int) -> pa.Table:
    values = {
        HEALPIX.name: np.arange(num),
        "ra": np.linspace(0, 1, num),
        "name": ["x" * (i % 90) for i in range(num)],
        "latent": list_array(np.arange(3 * num, dtype=np.float32).reshape(num, 3)),
        "good": [i % 2 == 0 for i in range(num)],
    }
    return conform(pa.table(values), COLUMNS).cast(hats.file_schema(COLUMNS, "toy"))


def test_path_of_a_partition_is_that_of_hats():
    from hats.io.paths import pixel_catalog_file
    from hats.pixel_math.healpix_pixel import HealpixPixel

    for order, pixel in ((0, 5), (8, 263850), (6, 10000), (6, 9999)):
        assert f"x/{hats.partition_path(order, pixel)}" == str(
            pixel_catalog_file("x", HealpixPixel(order, pixel))
        )


def test_metadata_joins_the_footers_of_all_partitions():
    rows = make_rows(10)
    parts = {(1, 3): rows.slice(0, 4), (2, 7): rows.slice(4, 6)}
    footers = {pixel: parquet.footer(parquet.to_bytes(part)) for pixel, part in parts.items()}
    metadata = pq.read_metadata(io.BytesIO(hats.dataset_metadata(rows.schema, footers)))
    assert (metadata.num_rows, metadata.num_row_groups) == (10, 2)
    assert metadata.row_group(0).column(0).file_path == "Norder=1/Dir=0/Npix=3.parquet"
    assert metadata.row_group(1).column(0).statistics.min == 4
    schema = metadata.schema.to_arrow_schema()
    assert schema.field("ra").metadata == {
        b"description": b"Right ascension",
        b"unit": b"deg",
        b"ucd": b"pos.eq.ra;meta.main",
    }
    assert b"IVOA.VOTable-Parquet.content" in schema.metadata


@pytest.mark.filterwarnings("ignore:No table.*len:astropy.utils.exceptions.AstropyUserWarning")
def test_astropy_reads_a_file_with_its_units(tmp_path):
    path = tmp_path / "x.parquet"
    rows = make_rows(100)
    path.write_bytes(parquet.to_bytes(rows))
    table = Table.read(path, format="parquet.votable")
    assert table.colnames == [column.name for column in COLUMNS]
    assert str(table["ra"].unit) == "deg"
    assert table["name"].description == "Any <text> & more"
    assert table["latent"].shape == (100, 3)
    np.testing.assert_array_equal(table["ra"], rows["ra"].to_numpy())
    assert list(table["name"]) == rows["name"].to_pylist()


def test_equal_tables_give_equal_bytes_however_they_are_chunked():
    rows = make_rows(100)
    chunked = pa.concat_tables([rows.slice(0, 33), rows.slice(33)])
    assert parquet.to_bytes(rows, 50) == parquet.to_bytes(chunked.combine_chunks(), 50)
    back = parquet.from_bytes(parquet.to_bytes(rows, 50))
    assert back.equals(rows)


def test_order_of_rows_is_that_of_a_sorted_table(tmp_path):
    images = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(64), 100, [None, pa.py_buffer(np.random.default_rng(1).bytes(6400))]
    )
    for rows in (make_rows(100), make_rows(100).append_column("images", images)):
        order = np.random.default_rng(2).permutation(100)
        parquet.write(rows, str(tmp_path / "x.parquet"), order, 30)
        data = (tmp_path / "x.parquet").read_bytes()
        assert data == parquet.to_bytes(rows.take(order), 30)
        assert parquet.from_bytes(data).equals(rows.take(order))
        assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 4


def test_skymap_is_read_by_hats(tmp_path):
    from hats.io.file_io import read_fits_image

    path = tmp_path / "skymap.fits"
    for counts in ({}, {0: 3, 786431: 5}):
        path.write_bytes(hats.skymap(counts))
        image = read_fits_image(path)
        assert image.shape == (12 * 4**COUNT_ORDER,)
        assert {int(i): int(image[i]) for i in np.flatnonzero(image)} == counts


def test_properties_are_read_by_hats(tmp_path):
    from hats.catalog import TableProperties

    text = hats.properties(
        "toy", 12, 4096, 1000, ["ra", "name"], {"trawl_note": "two\nlines \\ here", "empty": ""}
    )
    (tmp_path / "hats.properties").write_bytes(text)
    read = TableProperties.read_from_dir(tmp_path)
    assert (read.catalog_name, read.total_rows, read.healpix_order) == ("toy", 12, 29)
    assert read.default_columns == ["ra", "name"]
    assert read.model_extra["trawl_note"] == "two lines / here"
    assert "empty" not in read.model_extra


def test_partition_info_is_sorted():
    assert hats.partition_info([(2, 7), (1, 9), (1, 3)]) == b"Norder,Npix\n1,3\n1,9\n2,7\n"
