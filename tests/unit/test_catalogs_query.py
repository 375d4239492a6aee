import json
import math
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalogs.output import json_lines, table_text
from catalogs.query import open_catalog, run_query
from catalogs.sql import sql_text
from engine.errors import CommitError, ConfigError, StorageError
from engine.schema import arrow_schema
from engine.storage import Storage
from jobs.__main__ import main
from tests.catalogue import COLUMNS, FIRST_TARGETID, CatalogueMaker
from tests.servers import S3Server


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two versions: 500 rows of two units, then 620 of three, in a folder whose name needs quoting."""
    maker = CatalogueMaker(str(tmp_path_factory.mktemp("it's a catalogue")), Storage())
    maker.publish((300, 7), (200, 3))
    maker.publish((300, 7), (200, 3), (120, 0))
    return maker.root


@pytest.fixture
def con(root: str):
    with open_catalog(root) as connection:
        yield connection


def rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[dict]:
    return run_query(con, sql).read_all().to_pylist()


def test_views_have_the_declared_columns_and_types(con):
    table = run_query(con, "SELECT * FROM catalog").read_all()
    assert table.column_names == [column.name for column in COLUMNS]
    for got, declared in zip(table.schema, arrow_schema(COLUMNS), strict=True):
        assert got.type == declared.type, got.name


def test_newest_version_is_open_unless_told_otherwise(root, con):
    assert rows(con, "SELECT count(*) AS n FROM catalog") == [{"n": 620}]
    with open_catalog(root, version=1) as old:
        assert rows(old, "SELECT count(*) AS n FROM catalog") == [{"n": 500}]
        assert rows(old, "SELECT version FROM versions WHERE is_open") == [{"version": 1}]


def test_versions_tell_what_made_them(con):
    first, second = rows(con, "SELECT * FROM versions ORDER BY version")
    assert (first["version"], first["num_rows"], first["num_rejected"]) == (1, 500, 10)
    assert (second["version"], second["num_rows"], second["is_open"]) == (2, 620, True)
    assert first["checkpoint_ids"] == ["feed" * 8]
    assert first["publish_id"] != second["publish_id"]


def test_rejected_holds_reasons(con):
    found = rows(con, "SELECT reason, kind, count(*) AS n FROM rejected GROUP BY ALL ORDER BY reason")
    assert found == [
        {"reason": "fiberstatus", "kind": "cut", "n": 4},
        {"reason": "no_usable_pixel", "kind": "fault", "n": 6},
    ]


def test_a_catalogue_without_rejections_has_an_empty_view(tmp_path):
    CatalogueMaker(str(tmp_path), Storage()).publish((20, 0))
    with open_catalog(str(tmp_path)) as con:
        table = run_query(con, "SELECT * FROM rejected").read_all()
    assert table.num_rows == 0
    assert table.schema.field("targetid").type == pa.int64()


def test_a_catalogue_without_rows_has_typed_views(tmp_path):
    CatalogueMaker(str(tmp_path), Storage()).publish((0, 5))
    with open_catalog(str(tmp_path)) as con:
        table = run_query(con, "SELECT * FROM top(10)").read_all()
        assert rows(con, "SELECT count(*) AS n FROM rejected") == [{"n": 5}]
    assert table.num_rows == 0
    assert table.schema.field("targetid").type == pa.int64()


def test_a_glob_is_never_read(root, con):
    """A file of a failed attempt beside the good ones changes nothing."""
    dataset = next(Path(root, "data").glob("*/dataset"))
    good = next(dataset.rglob("*.parquet"))
    orphan = good.with_name("Npix=9999.parquet")
    orphan.write_bytes(good.read_bytes())
    try:
        with open_catalog(root) as fresh:
            assert rows(fresh, "SELECT count(*) AS n FROM catalog") == [{"n": 620}]
    finally:
        orphan.unlink()


def test_top_agrees_with_the_ranked_view(con):
    top = rows(con, "SELECT anomaly_rank, targetid, anomaly_score FROM top(7)")
    assert [row["anomaly_rank"] for row in top] == list(range(1, 8))
    assert top == rows(
        con, "SELECT anomaly_rank, targetid, anomaly_score FROM ranked WHERE anomaly_rank <= 7 ORDER BY 1"
    )
    best = rows(con, "SELECT max(anomaly_score) AS best FROM catalog")[0]["best"]
    assert top[0]["anomaly_score"] == best


def test_flag_macros(con):
    counts = rows(
        con,
        "SELECT count(*) FILTER (has_flag(flags, 'MISSING_B')) AS macro, count(*) FILTER (flags & 1 = 1) AS bits "
        "FROM catalog",
    )
    assert counts[0]["macro"] == counts[0]["bits"] > 0
    named = rows(con, "SELECT DISTINCT flags, flag_names(flags) AS names FROM catalog ORDER BY flags")
    assert named[0] == {"flags": 0, "names": []}
    assert named[1]["names"] == ["MISSING_B", "LOW_COVERAGE"]


def test_an_unknown_flag_is_told_with_the_known_ones(con):
    with pytest.raises(ConfigError, match="unknown flag MISSING_Q; known: MISSING_B"):
        run_query(con, "SELECT count(*) FROM catalog WHERE has_flag(flags, 'MISSING_Q')").read_all()


def test_column_comments_hold_description_and_unit(con):
    (found,) = rows(
        con, "SELECT comment FROM duckdb_columns() WHERE table_name = 'catalog' AND column_name = 'ra'"
    )
    assert found["comment"] == "Right ascension, ICRS [deg]"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "COPY (SELECT 1) TO 'x.csv'",
        "CREATE TABLE t (a INT)",
        "INSERT INTO versions VALUES (1)",
        "SET threads = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH 'x.db'",
        "EXPORT DATABASE 'x'",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "EXPLAIN EXPLAIN COPY (SELECT 1) TO 'x.csv'",
        "/* SELECT */ EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "SELECT $1",
        "SELEC 1",
    ],
)
def test_only_one_statement_that_reads_is_accepted(con, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="query"):
        run_query(con, sql).read_all()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sql",
    ["FROM versions", "WITH a AS (SELECT 1 AS b) SELECT b FROM a", "VALUES (1)", "DESCRIBE catalog", "SHOW TABLES",
     "EXPLAIN SELECT 1", "explain analyze select 1", "SUMMARIZE SELECT targetid FROM catalog", "SELECT 1;"],
)  # fmt: skip
def test_everything_that_reads_is_accepted(con, sql):
    assert run_query(con, sql).read_all().num_rows >= 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{other}/secret.csv')",
        "SELECT * FROM '{other}/secret.csv'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('{other}/*')",
        "SELECT * FROM read_parquet('{root}/data/**/*.parquet')",
        "SELECT * FROM sqlite_scan('{other}/x.db', 't')",
    ],
)
def test_other_files_are_out_of_reach(root, con, sql, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError):
        run_query(con, sql.format(other=tmp_path, root=root.replace("'", "''"))).read_all()


def test_what_is_allowed_is_read_and_nothing_beside_it(root, tmp_path, monkeypatch):
    folder, beside = tmp_path / "it's mine", tmp_path / "it's mine too"
    for place in (folder / "deep", beside):
        place.mkdir(parents=True)
        (place / "a.csv").write_text("a\n1\n")
    alone = tmp_path / "alone.csv"
    alone.write_text("a\n2\n")
    (folder / "link").symlink_to(beside)
    monkeypatch.chdir(tmp_path)
    with open_catalog(root, allow=[str(folder), "alone.csv"]) as con:
        inside = (
            "it's mine/deep/a.csv",
            f"{folder}/d*/*.csv",
            str(alone),
            "alone.csv",
            f"{folder}/../alone.csv",
        )
        assert [rows(con, f"FROM {sql_text(path)}")[0]["a"] for path in inside] == [1, 1, 2, 2, 2]
        assert rows(con, "SELECT count(*) AS n FROM catalog JOIN 'alone.csv' ON targetid > a") == [{"n": 620}]
        outside = (
            beside / "a.csv",
            f"{folder}/../it's mine too/a.csv",
            f"{folder}/link/a.csv",
            "*.csv",
            "/etc/passwd",
        )
        for path in outside:
            with pytest.raises(ConfigError, match="Cannot access file"):
                run_query(con, f"SELECT * FROM read_csv({sql_text(str(path))})").read_all()
        with pytest.raises(ConfigError, match="query"):
            run_query(con, f"COPY (SELECT 1) TO {sql_text(f'{folder}/out.csv')}")


def test_what_is_allowed_must_be_there(root, tmp_path):
    with pytest.raises(ConfigError, match=r"--allow: nothing there.*none.csv"):
        open_catalog(root, allow=[str(tmp_path / "none.csv")])
    for place in ("https://host/x.csv", "s3://key:secret@bucket/x.csv"):
        with pytest.raises(StorageError, match=r"usable|credentials"):
            open_catalog(root, allow=[place])


def test_the_command_line_allows_several_places(root, tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"{name[0]}\n1\n")
    sql = f"SELECT a + b AS c FROM '{tmp_path}/a.csv', '{tmp_path}/b.csv'"
    allowed = [word for name in ("a.csv", "b.csv") for word in ("--allow", str(tmp_path / name))]
    assert main(["query", root, sql, "--json", *allowed]) == 0
    assert capsys.readouterr().out == '{"c": 2}\n'
    assert main(["query", root, sql, *allowed]) == 0
    assert main(["query", root, sql, "--json", *allowed[:2]]) == 2
    assert "Cannot access file" in capsys.readouterr().err


def test_the_connection_itself_is_locked(root, con, tmp_path):
    for sql in ("SET enable_external_access = true", "SET threads = 1", "INSTALL httpfs"):
        with pytest.raises(duckdb.Error):
            con.execute(sql)
    with pytest.raises(duckdb.Error):
        con.execute(f"COPY (SELECT 1) TO '{tmp_path}/out.csv'")
    data = str(next(Path(root, "data").rglob("Npix*.parquet"))).replace("'", "''")
    with pytest.raises(duckdb.Error):
        con.execute(f"COPY (SELECT 1) TO '{data}'")


def test_errors_name_what_duckdb_found(con):
    with pytest.raises(ConfigError, match=r'column "nope" not found.*DESCRIBE catalog') as caught:
        run_query(con, "SELECT nope FROM catalog")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="Could not convert"):
        run_query(con, "SELECT CAST(survey AS INT) FROM catalog").read_all()


def test_unknown_catalogue_and_version(root, tmp_path):
    with pytest.raises(CommitError, match="nothing is published"):
        open_catalog(str(tmp_path / "none"))
    with pytest.raises(CommitError, match=r"no such version.*got 9"):
        open_catalog(root, version=9)


def test_large_queries_spill_outside_the_working_directory(con, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_query(con, "SELECT max(h) FROM (SELECT hash(i) AS h FROM range(300000) r(i) ORDER BY h)").read_all()
    assert not list(tmp_path.iterdir())


def test_json_lines_are_exact(con):
    sql = "SELECT targetid, latent_mean, anomaly_score, subtype, 'nan'::FLOAT AS odd, DATE '2024-01-02' AS day FROM top(2)"
    parsed = [json.loads(line) for line in json_lines(run_query(con, sql))]
    expected = rows(con, sql)
    assert [row["targetid"] for row in parsed] == [row["targetid"] for row in expected]
    assert parsed[0]["targetid"] > FIRST_TARGETID > 2**53
    assert parsed[0]["latent_mean"] == pytest.approx(expected[0]["latent_mean"], rel=1e-6)
    assert parsed[0]["subtype"] is None
    assert parsed[0]["odd"] is None
    assert parsed[0]["day"] == "2024-01-02"
    assert math.isclose(parsed[0]["anomaly_score"], expected[0]["anomaly_score"], rel_tol=1e-6)


def test_json_floats_have_no_spurious_digits(con):
    (line,) = json_lines(run_query(con, "SELECT 0.1::FLOAT AS single, 0.1::DOUBLE AS double"))
    assert line == '{"single": 0.1, "double": 0.1}'


def test_table_text_is_exact_and_says_if_there_is_more(con):
    text = table_text(
        run_query(con, "SELECT targetid, latent_mean FROM catalog ORDER BY targetid"), max_rows=3
    )
    assert str(FIRST_TARGETID) in text
    assert "(3 rows)" in text
    assert "more rows than 3" in text
    assert len(text.splitlines()) == 7


def test_table_text_of_nothing(con):
    text = table_text(run_query(con, "SELECT targetid FROM catalog WHERE false"))
    assert text.splitlines()[0] == "targetid"
    assert "(0 rows)" in text


@pytest.mark.s3
def test_a_catalogue_on_s3_is_read_by_name_and_nothing_else_is(moto_server: S3Server):
    options = moto_server.options
    storage = Storage(options)
    bucket = moto_server.make_bucket()
    maker = CatalogueMaker(f"{bucket}/deep/catalogue", storage)
    manifest = maker.publish((150, 2))
    storage.put(f"{bucket}/secret.csv", b"a\n1\n")
    with open_catalog(maker.root, options) as con:
        assert rows(con, "SELECT count(*) AS n FROM catalog") == [{"n": 150}]
        assert rows(con, "SELECT count(*) AS n FROM top(3)") == [{"n": 3}]
        assert rows(con, "SELECT count(*) AS n FROM rejected") == [{"n": 2}]
        for path in (f"{bucket}/secret.csv", f"{bucket}/**", f"{maker.root}/{manifest.path}/units.parquet"):
            with pytest.raises(ConfigError):
                run_query(con, f"SELECT * FROM '{path}'").read_all()
    storage.put(f"{bucket}/mine/a.csv", b"a\n3\n")
    storage.put(f"{bucket}/file.csv", b"a\n4\n")
    with open_catalog(maker.root, options, allow=[f"{bucket}/mine/", f"{bucket}/file.csv"]) as con:
        assert rows(con, f"FROM '{bucket}/mine/*.csv' UNION ALL FROM '{bucket}/file.csv'") == [
            {"a": 3},
            {"a": 4},
        ]
        for path in (f"{bucket}/secret.csv", f"{bucket}/mine/../secret.csv", f"{bucket}/*.csv"):
            with pytest.raises(ConfigError):
                run_query(con, f"SELECT * FROM '{path}'").read_all()
