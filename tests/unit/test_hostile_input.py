"""What comes from outside and means ill: names in data, statements, credentials in the wrong place."""

import os
import pickle
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalogs.query import open_catalog, run_query
from catalogs.report import ReportOptions, build_report
from catalogs.spec import MOST_ANOMALOUS
from catalogs.spectral_anomaly import SPEC
from catalogs.statistics import chosen_rows
from engine.commit import CatalogConfig, FragmentSink, publish
from engine.config import validate
from engine.errors import ConfigError, StorageError
from engine.locations import StorageOptions, canonical
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import NircamConfig
from engine.stage import Rejection, UnitTable, rejected_table
from engine.storage import Storage
from engine.units import Unit, with_ids
from jobs.config import Place
from tests.catalogue import COLUMNS, PROVENANCE, gallery_item, make_rows, training_history
from tests.mosaics import Field, grid
from tests.unit.test_catalogs_report import Page

SCRIPT = "<script>alert(1)</script>"
NAMES = (
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    r"$\frac{$",
    "]]></svg><script>alert(1)</script>",
    "' onload='alert(1)",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A catalogue in which every text of the data is markup."""
    root = str(tmp_path_factory.mktemp("hostile"))
    rows = make_rows(300)
    for number, name in enumerate(("survey", "program", "spectype", "source_uri")):
        texts = [NAMES[(row + number) % len(NAMES)] for row in range(rows.num_rows)]
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(texts))
    rejected = [Rejection(SCRIPT, "not_fits", SCRIPT, 900, 5, SCRIPT, SCRIPT)]
    sink = FragmentSink(root, Storage().options, COLUMNS)
    (unit,) = with_ids([Unit(SCRIPT, ())], {})
    sink.write(unit, UnitTable(rows, rejected_table(rejected), rows.num_rows + 1))
    config = CatalogConfig(name="test", key=SPEC.key)
    publish(
        root, Storage(), [unit.id], COLUMNS, config, {**PROVENANCE, "note": SCRIPT, SCRIPT: {"a": SCRIPT}}
    )
    return root


def test_a_report_shows_what_data_say_and_runs_none_of_it(hostile: str, tmp_path: Path) -> None:
    with open_catalog(hostile) as con:
        items = [gallery_item(row) for row in chosen_rows(con, MOST_ANOMALOUS, 5)]
    html = build_report(
        hostile,
        str(tmp_path / "r.html"),
        gallery=items,
        history=training_history(),
        options=ReportOptions(umap=False),
    )
    page = Page(html)
    assert "<script" not in html.lower()
    assert "<img src=x" not in html
    assert "' onload='" not in html
    assert SCRIPT in page.plain, "it is shown, as text"
    assert all(source.startswith(("data:image/png", "#")) for source in page.sources)


HOSTILE_SQL = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT content FROM read_text('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM parquet_schema('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table('{secret}')",
    "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
    "SELECT * FROM private_table",
    "COPY catalog TO '{out}'",
    "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
    "COPY versions FROM '{secret}'",
    "ATTACH '{out}' AS other",
    "ATTACH ':memory:' AS other",
    "EXPORT DATABASE '{out}'",
    "IMPORT DATABASE '{out}'",
    "INSTALL httpfs",
    "LOAD '{out}'",
    "PRAGMA enable_external_access = true",
    "PRAGMA temp_directory = '{out}'",
    "SET allowed_directories = ['/']",
    "SET GLOBAL enable_external_access = true",
    "RESET enable_external_access",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE MACRO f() AS TABLE SELECT 1",
    "CREATE TEMP TABLE t AS SELECT 1",
    "DELETE FROM versions",
    "UPDATE versions SET num_rows = 0",
    "DROP VIEW catalog",
    "CALL enable_logging(storage := 'file', storage_path := '{out}')",
    "CHECKPOINT",
    "USE memory",
    "VACUUM",
    "PREPARE p AS SELECT 1",
    "WITH x AS (SELECT 1) INSERT INTO versions SELECT * FROM versions",
    "EXPLAIN ANALYZE DELETE FROM versions",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{out}'",
)


@pytest.mark.parametrize("sql", HOSTILE_SQL)
def test_a_query_reads_the_catalogue_and_nothing_else(hostile: str, tmp_path: Path, sql: str) -> None:
    private_table = pa.table({"secret": [1]})  # a variable that DuckDB would find by its name
    secret, out = tmp_path / "secret.csv", tmp_path / "out"
    secret.write_text("a\ncanary\n")
    with open_catalog(hostile) as con:
        with pytest.raises(ConfigError, match="query") as caught:
            print(run_query(con, sql.format(secret=secret, out=out)).read_all())
        assert con.sql("SELECT count(*) FROM versions").fetchall() == [(1,)]
        assert con.sql("SELECT count(*) FROM catalog").fetchall() == [(300,)]
    assert "canary" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert private_table.num_rows == 1


def test_a_query_cannot_see_secrets_or_change_settings(hostile: str) -> None:
    with open_catalog(hostile) as con:
        assert run_query(con, "SELECT * FROM duckdb_secrets()").read_all().num_rows == 0
        assert run_query(con, "SELECT current_setting('enable_external_access') AS x").read_all()[
            "x"
        ].to_pylist() == [False]
        with pytest.raises(duckdb.Error):
            con.execute("SET lock_configuration = false")


class TestCredentialsInTheWrongPlace:
    def test_in_an_endpoint(self) -> None:
        tree = {"uri": "s3://bucket/x", "storage": {"endpoint_url": "http://AKIAKEY:canary@host:7480"}}
        with pytest.raises(ConfigError, match="must not hold credentials") as caught:
            validate(Place, tree, "job.toml")
        assert "canary" not in str(caught.value)
        assert "AKIAKEY" not in str(caught.value)

    @pytest.mark.parametrize("uri", ["s3://AKIAKEY:canary@bucket/x", "http://user:canary@host/x"])
    def test_in_a_uri(self, uri: str) -> None:
        with pytest.raises(StorageError, match="credentials") as caught:
            canonical(uri)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("key", ["secret_key", "aws_secret_access_key", "token"])
    def test_as_a_key_of_the_configuration(self, key: str) -> None:
        with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY") as caught:
            validate(Place, {"uri": "x", "storage": {key: "canary"}}, "job.toml")
        assert "canary" not in str(caught.value)

    def test_options_hold_and_pickle_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-environment")
        storage = Storage(StorageOptions(endpoint_url="http://127.0.0.1:1"))
        storage.filesystem("s3://bucket")
        assert b"canary" not in pickle.dumps(storage)
        assert "canary" not in repr(storage)
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == "canary-of-the-environment"


@pytest.mark.filterwarnings("ignore:Input data contains invalid values", "ignore::RuntimeWarning")
def test_a_source_whose_centre_is_no_number_is_rejected(tmp_path: Path) -> None:
    """Pixels near the largest float make sums infinite; the other sources of the strip are read."""
    field = Field(tmp_path, "nircam1", grid((80, 90)))
    for band in ("f150w", "f200w", "f277w"):
        field.images[band][38:43, 63:68] += 60.0
        field.images[band][20:24, 20:24] = 3e38
    field.write()
    source = NircamSource(str(tmp_path), config=NircamConfig(size=16))
    tables = [source.read(unit) for unit in source.plan()]
    reasons = [reason for table in tables for reason in table.rejected["reason"].to_pylist()]
    assert reasons.count("bad_position") >= 1
    assert set(reasons) == {"bad_position"}
    assert sum(table.rows.num_rows for table in tables) >= 1
    assert all(table.rows_in == table.rows.num_rows + table.rejected.num_rows for table in tables)
