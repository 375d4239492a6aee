"""Numbers and charts of a catalogue of classes."""

import duckdb
import numpy as np
import pytest

from catalogs.class_charts import Reliability, class_chart
from catalogs.nircam_morphology import SPEC
from catalogs.spec import Choice
from catalogs.statistics import chosen_rows, class_fractions, confusion, histogram, labelled
from engine.flags import BLENDED, ERROR_ESTIMATED, LOW_SNR, TRUNCATED

CLASSES = SPEC.classes
assert CLASSES is not None


@pytest.fixture
def con():
    """Eight objects: redshift, given class, probability; the last has no probability, the first no class."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE catalog AS SELECT *, 0 AS flags FROM (VALUES (0.5, -1, 0.9, 1), (0.6, 1, 0.8, 1), "
            "(0.7, 0, 0.6, 1), (1.2, 0, 0.1, 0), (1.4, 1, 0.4, 0), (1.6, 0, 0.2, 0), (NULL, 1, 0.95, 1), "
            "(0.8, 1, 'nan'::DOUBLE, -1)) AS t(z, label, prob_disk, disk_class)"
        )
        connection.execute("CREATE MACRO flag_names(flags) AS []")
        connection.execute(
            "CREATE VIEW ranked AS SELECT row_number() OVER (ORDER BY prob_disk DESC) AS disk_rank, "
            "'f' AS field, 1 AS object_id, * FROM catalog WHERE isfinite(prob_disk)"
        )
        yield connection


def test_fractions_count_predictions_with_redshift(con):
    found = class_fractions(con, CLASSES, np.array([0.0, 1.0, 2.0, 3.0]))
    assert found.hits.tolist() == [3, 0, 0]
    assert found.totals.tolist() == [3, 3, 0]
    assert found.low[0] == pytest.approx(0.025 ** (1 / 3)), "Clopper & Pearson: 3 of 3"
    assert found.high[1] == pytest.approx(1 - 0.025 ** (1 / 3))


@pytest.mark.parametrize("flag", [LOW_SNR, BLENDED, TRUNCATED])
def test_fractions_leave_out_what_is_not_trusted_and_count_it(con, flag):
    con.execute(f"UPDATE catalog SET flags = {flag.value} WHERE prob_disk IN (0.6, 0.4)")
    found = class_fractions(con, CLASSES, np.array([0.0, 1.0, 2.0, 3.0]))
    assert (found.hits.tolist(), found.totals.tolist()) == ([2, 0, 0], [2, 2, 0])
    assert found.everything.tolist() == [3, 3, 0]
    np.testing.assert_allclose(found.probability, [0.85, 0.15, np.nan], err_msg="mean probability")
    con.execute(f"UPDATE catalog SET flags = {ERROR_ESTIMATED.value}")
    assert class_fractions(con, CLASSES, np.array([0.0, 1.0])).totals.tolist() == [3]


def test_confusion_counts_given_against_predicted(con):
    assert confusion(con, CLASSES).tolist() == [[2, 1], [1, 2]]


def test_labelled_rows_have_a_class_and_a_probability(con):
    probability, outcome = labelled(con, CLASSES)
    assert dict(zip(probability.tolist(), outcome.tolist(), strict=True)) == {
        0.8: True, 0.6: False, 0.1: False, 0.4: True, 0.2: False, 0.95: True,
    }  # fmt: skip


def test_histograms_may_be_of_some_rows(con):
    assert histogram(con, "prob_disk", 0, 1, 2, "label = 0").counts.tolist() == [2, 1]


def test_choices_come_in_their_order(con):
    disagreeing = chosen_rows(con, SPEC.choices[2], 2)
    assert [row["prob_disk"] for row in disagreeing] == [0.6, 0.4]
    least = chosen_rows(con, SPEC.choices[1], 2)
    assert [row["prob_disk"] for row in least] == [0.1, 0.2]
    assert chosen_rows(con, Choice("", "(SELECT * FROM ranked LIMIT {n})"), 3)[0]["flag_names"] == []


def test_chart_is_drawn_with_and_without_what_may_be_missing(con):
    histograms = {"all": histogram(con, "prob_disk", 0, 1, 5)}
    fractions = class_fractions(con, CLASSES, np.array([0.0, 1.0, 2.0]))
    table = np.array([[5, 0.2, 0.1], [0, np.nan, np.nan], [4, 0.8, 0.9]])
    full = class_chart(CLASSES, histograms, Reliability(table, True), labelled(con, CLASSES), fractions)
    assert "held out, ECE 0.10" in full
    assert "given classes, Brier" in full
    assert "mean probability" in full
    assert "3/3" in full, "trusted, and all"
    none = np.empty(0), np.empty(0, bool)
    nothing = class_fractions(con, CLASSES, np.array([8.0, 9.0]))
    flattered = class_chart(CLASSES, histograms, Reliability(table, False), none, nothing)
    assert "calibrated on, not trained on, ECE 0.10" in flattered
    bare = class_chart(CLASSES, histograms, None, none, nothing)
    assert "held out" not in bare
    assert "given classes" not in bare
