"""The report on labels and ranks made of them, and on what the checkpoint is known to be worth."""

import sys
from dataclasses import replace
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import numpy as np
import pytest

from catalogs.checkpoint_facts import CheckpointFacts
from catalogs.query import open_catalog
from catalogs.report import ReportOptions, build_report
from catalogs.spec import MOST_ANOMALOUS
from catalogs.statistics import chosen_rows
from engine.checkpoint import Checkpoint, load
from engine.storage import Storage
from jobs.job import Options
from jobs.labels import run as label
from jobs.report import facts_of, reliability_of
from jobs.rerank import run as rerank
from tests.catalogue import CatalogueMaker, gallery_item
from tests.unit.test_catalogs_report import Page

CONFUSION = {"blend": {"artefact": 13, "physical": 87}, "sky_residual": {"artefact": 299, "physical": 1}}


@pytest.fixture
def root(tmp_path: Path) -> str:
    maker = CatalogueMaker(str(tmp_path / "catalogue"), Storage())
    maker.publish((120, 0))
    return maker.root


def labelled(root: str, path: Path, labels: list[float]) -> str:
    with open_catalog(root) as con:
        rows = chosen_rows(con, MOST_ANOMALOUS, len(labels))
    lines = [f"{row['targetid']},0,{given:g}" for row, given in zip(rows, labels, strict=True)]
    path.write_text("\n".join([",score,human_label", *lines]) + "\n")
    return str(path)


def report(root: str, folder: Path, **given: Any) -> str:
    return build_report(root, str(folder / "r.html"), options=ReportOptions(umap=False), **given)


def section(html: str) -> str:
    return html[html.index('<section id="people">') : html.index('<section id="gallery">')]


def test_without_labels_there_is_no_section(root, tmp_path):
    assert 'id="people"' not in report(root, tmp_path)


def test_labels_without_ranks_are_counted_and_the_way_on_is_told(root, tmp_path):
    label(Options(root, labels=labelled(root, tmp_path / "l.csv", [5, 0, 1]), who="<Ada>"))
    label(Options(root, labels=labelled(root, tmp_path / "l.csv", [4]), who="Ben"))
    page = Page(report(root, tmp_path))
    assert "people" in page.sections
    assert "3 objects have a label" in page.plain
    assert "<Ada> 3 1 20" in page.plain  # three labels, one of them 4 or 5
    assert "Ben 1 1 20" in page.plain
    assert "No ranks were made of them for this version" in page.plain


def test_new_ranks_stand_beside_the_old(root, tmp_path):
    file = labelled(root, tmp_path / "l.csv", [0, 0, 0, 5, 5])
    rerank(Options(root, labels=file, who="Ada", overrides=("rerank.num_trees=20",)))
    html = section(report(root, tmp_path))
    with open_catalog(root) as con:
        first = con.sql(
            "SELECT r.targetid, r.rerank_score, k.anomaly_rank FROM reranked r JOIN ranked k "
            "USING (survey, program, targetid) ORDER BY rerank LIMIT 3"
        ).fetchall()
    for place, (targetid, score, before) in enumerate(first, start=1):
        row = html[html.index(f'<td class="n">{place}</td><td class="n">{before}</td>') :]
        assert row.index(f"{score:.3f}") < row.index(str(targetid)) < row.index("</tr>")
    assert "astronomaly" in html
    assert "rank anew" not in html
    label(Options(root, labels=labelled(root, tmp_path / "l.csv", [1]), who="Ben"))
    assert "there are newer ones: rank anew" in section(report(root, tmp_path))


def test_what_the_guess_of_kinds_is_worth_is_shown(root, tmp_path):
    text = Page(report(root, tmp_path, checkpoint=CheckpointFacts(CONFUSION | {"odd": {}}))).plain
    assert "sky residual artefact 299 1 99.7 %" in text
    assert "blend physical 13 87 87 %" in text
    assert text.index("sky residual") < text.index("blend physical")
    assert "odd – 0 0 –" in text


def test_neighbours_have_a_class_and_an_id_only_where_it_can_be_looked_up(root, tmp_path):
    facts = CheckpointFacts(reference_class={7: "QSO", 2**60: "STAR"})
    row = {"neighbour_id": [7, 2**60, 2**61, 8, -1], "neighbour_distance": [1.0, 2.0, 3.0, 4.0, float("nan")]}
    assert [(one["name"], one["kind"]) for one in facts.neighbours(row)] == [
        ("", "QSO"), (str(2**60), "STAR"), (str(2**61), ""), ("", ""),
    ]  # fmt: skip
    assert facts.neighbours({}) == []
    with open_catalog(root) as con:
        (top,) = chosen_rows(con, MOST_ANOMALOUS, 1)
    facts = CheckpointFacts(reference_class={top["neighbour_id"][0]: "QSO"})
    text = Page(report(root, tmp_path, gallery=[gallery_item(top)], checkpoint=facts)).plain
    assert f"nearest normal: QSO {top['neighbour_id'][0]} (" in text


def test_facts_are_those_of_the_checkpoint():
    fitted = {"reference_id": np.array([3, 5]), "reference_class": np.array([1, 3], np.float32)}
    checkpoint = Checkpoint("m", 1, {}, {}, {}, fitted, {"artefact_confusion": CONFUSION})
    assert facts_of(checkpoint) == CheckpointFacts(CONFUSION, {3: "QSO"})
    assert facts_of(Checkpoint("m", 1, {}, {}, {})) == CheckpointFacts()


@pytest.mark.parametrize(("name", "off"), [("spectral_vae_rest", 2), ("spectral_vae_desi", 3)])
def test_how_many_scores_make_the_rank_is_the_checkpoints(name, off):
    checkpoint = load(f"checkpoints/{name}", Storage())
    assert facts_of(checkpoint).score_parts == {"off_manifold_score": off, "on_manifold_score": 1}


def test_what_chance_gives_follows_the_checkpoint(root, tmp_path, monkeypatch):
    drawn = []

    def chart(histograms: Any, parts: Any) -> str:
        drawn.append(dict(parts))
        return ""

    monkeypatch.setattr("catalogs.charts.score_chart", chart)
    report(root, tmp_path)
    facts = CheckpointFacts(score_parts={"off_manifold_score": 2})
    text = Page(report(root, tmp_path, checkpoint=facts)).plain
    assert [one["anomaly_score"] for one in drawn] == [4, 3]
    assert drawn[1]["off_manifold_score"] == 2
    assert "of a thousand ordinary objects between one and 3 reach 3" in text


def test_catalogs_stay_light():
    code = "import sys, catalogs.report; print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_report_knows_whether_each_temperature_was_found_on_other_objects() -> None:
    table = np.zeros((15, 3))
    old = Checkpoint("disk_classifier", 1, {}, {}, {}, {"reliability_calibrated": table})
    new = replace(old, fitted=old.fitted | {"temperature_halves": np.ones(2)})
    found = [reliability_of(one) for one in (old, new, replace(old, fitted={}))]
    assert [None if one is None else one.is_cross_fitted for one in found] == [False, True, None]
