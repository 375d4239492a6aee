"""Ranks of a catalogue of images, some of whose sources could not be scored: NaN by design, with a flag."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogs.query import open_catalog, run_query
from catalogs.release import load_release
from engine.schema import matrix
from engine.storage import Storage
from jobs.__main__ import main
from jobs.job import Options
from jobs.rerank import run
from models.reranking.astronomaly import Astronomaly
from models.reranking.config import AstronomalyConfig
from models.reranking.labelled import Labelled
from tests.catalogue import publish_bands

NUM_ROWS, UNSCORED = 150, (3, 70, 71)


@pytest.fixture
def root(tmp_path: Path) -> str:
    folder = str(tmp_path / "bands")
    publish_bands(folder, NUM_ROWS, UNSCORED)
    return folder


def labels(path: Path, ids: list[int]) -> str:
    lines = [f"ceers/{number},0.5,{number % 6}" for number in ids]
    path.write_text("\n".join([",score,human_label", *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize("method", ["astronomaly", "protege"])
def test_sources_that_were_not_scored_have_no_rank(root, tmp_path, method):
    overrides = (f"rerank.method={method}", "rerank.num_trees=5", "rerank.batch_rows=70")
    given = Options(root, labels=labels(tmp_path / "l.csv", [1, 2, 30]), overrides=overrides)
    done = run(given)
    assert (done.summary["rows"], done.summary["unscored"]) == (NUM_ROWS - 3, 3)
    assert any("3 rows without scores have no rank" in line for line in done.lines)
    with open_catalog(root) as con:
        rows = run_query(con, "SELECT * FROM reranked").read_all()
    assert not set(rows["object_id"].to_pylist()) & {index + 1 for index in UNSCORED}
    assert np.isfinite(rows["rerank_score"].to_numpy()).all()
    assert sorted(rows["rerank"].to_pylist()) == list(range(1, NUM_ROWS - 2))


def test_scores_are_those_of_the_scored_sources_alone(root, tmp_path):
    """Also the mean distance and the range of scores, which are of the whole catalogue."""
    file = labels(tmp_path / "l.csv", [1, 2, 30])
    run(Options(root, labels=file, overrides=("rerank.num_trees=5",)))
    with open_catalog(root) as con:
        rows = con.sql("SELECT * FROM reranked ORDER BY object_id").to_arrow_table()
    latent, score = matrix(rows, "latent_mean"), rows["anomaly_score"].to_numpy()
    given = np.isin(rows["object_id"].to_numpy(), [1, 2, 30])
    config = AstronomalyConfig(num_trees=5)
    alone = Astronomaly(Labelled(latent[given], np.array([1.0, 2.0, 0.0])), config)
    expected = alone.apply(latent, score, alone.totals(latent, score))
    np.testing.assert_allclose(rows["rerank_score"].to_numpy(), expected["rerank_score"], rtol=1e-5)


def test_a_nan_without_the_flag_stays_an_error(root, tmp_path, capsys):
    first = load_release(root, Storage()).uris("data")[0]
    table = pq.read_table(first)
    index = table.schema.get_field_index("flags")
    none = pa.array(np.zeros(table.num_rows, np.int32))
    pq.write_table(table.set_column(index, table.schema.field(index), none), first)
    ids = [number for number in table["object_id"].to_pylist() if number - 1 not in UNSCORED][:3]
    assert main(["rerank", root, "--labels", labels(tmp_path / "l.csv", ids)]) == 2
    assert "features that are not finite" in capsys.readouterr().err


def test_a_source_that_was_not_scored_cannot_be_labelled(root, tmp_path, capsys):
    """It would stand in the way of every rerank."""
    assert main(["labels", root, "--labels", labels(tmp_path / "l.csv", [1, 4])]) == 2
    error = capsys.readouterr().err
    assert "could not be scored (flag NOT_SCORED)" in error
    assert "line 3: ceers/4" in error
    with open_catalog(root) as con:
        assert run_query(con, "SELECT * FROM labels").read_all().num_rows == 0


def test_a_label_of_a_source_that_another_version_could_not_score_is_passed_over(root, tmp_path):
    run(Options(root, labels=labels(tmp_path / "l.csv", [1, 2, 30]), overrides=("rerank.num_trees=5",)))
    publish_bands(root, NUM_ROWS, [*UNSCORED, 1], seed=1)
    done = run(Options(root, overrides=("rerank.num_trees=5",)))
    assert (done.summary["rows"], done.summary["labels"]) == (NUM_ROWS - 4, 2)
