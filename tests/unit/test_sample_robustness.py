"""Curves over the fraction of generated batches: the arithmetic, the chart, files that are something else."""

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from catalogs.sample_robustness import improvement, read_robustness, robustness_chart, robustness_rows
from engine.errors import SourceError

ERRORS = {
    "0.0": [{"none": 2.0, "both": 10.0}, {"none": 4.0, "both": 20.0}],
    "1.0": [{"none": 1.0, "both": 5.0}, {"none": 3.0, "both": 5.0}],
    "0.5": [{"none": 2.0, "both": 9.0}, {"none": 4.0, "both": 18.0}],
}


def as_read(errors: object) -> bytes:
    return json.dumps({"errors": errors, "options": {"generator": "truth"}}).encode()


def test_improvement_pairs_seeds_and_has_students_interval() -> None:
    errors = read_robustness(as_read(ERRORS), "x.json").errors
    gain = improvement(errors, 1.0, "none")
    assert gain.mean == pytest.approx((0.5 + 0.25) / 2)
    assert gain.half == pytest.approx(12.7062 * 0.125, rel=1e-4), "t of one degree of freedom"
    assert improvement(errors, 0.5, "both") == pytest.approx((0.1, 0.0))
    single = {alpha: rows[:1] for alpha, rows in errors.items()}
    assert np.isnan(improvement(single, 1.0, "none").half)


def test_rows_and_chart_have_every_shift_and_alpha() -> None:
    found = read_robustness(as_read(ERRORS), "x.json")
    (none, both) = robustness_rows(found)
    assert (none[0], none[1], both[1]) == ("none", 3.0, 15.0)
    assert [gain.mean for gain in both[2]] == pytest.approx([0.1, 0.625])
    svg = robustness_chart(found.errors, found.shifts)
    texts = "".join(ET.fromstring(svg).itertext())
    assert "both" in texts
    assert "lower MSE" in texts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"no json", "not the JSON of benchmarks.augmentation"),
        (b"{}", "errors: Field required"),
        (as_read({"0.5": ERRORS["0.5"]}), "alphas cannot be compared"),
        (as_read(ERRORS | {"0.5": ERRORS["0.5"][:1]}), "alphas cannot be compared"),
        (as_read(ERRORS | {"0.5": [{"none": 1.0}] * 2}), "shifts differ"),
    ],
)
def test_what_is_no_experiment_is_refused_with_its_name(text: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words) as error:
        read_robustness(text, "curves.json")
    assert "curves.json" in str(error.value)
