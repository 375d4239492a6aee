"""What the benchmark of denoisers says of shapes: nothing is gained or lost where an image is the truth."""

import numpy as np
import pytest

from benchmarks.denoised_shapes import middle_and_scatter, shape_table
from engine.images.bands import BANDS
from engine.synthetic.contaminate.optics import nircam_optics
from engine.synthetic.contaminate.target import radii

S, EDGES = 64, (10.0, 1000.0)


def galaxies() -> dict[str, np.ndarray]:
    """Two galaxies with noise; the second is empty."""
    rms = np.array(nircam_optics().rms, np.float32)[:, None, None]
    shape = np.exp(-radii(S, S // 2, S // 2) / 3.0)
    light = np.array([300.0, 0.0])[:, None, None, None] * np.broadcast_to(
        shape / shape.sum(), (len(BANDS), S, S)
    )
    error = np.broadcast_to(rms, light.shape)
    science = light + error * np.random.default_rng(0).standard_normal(light.shape)
    flat = {"clean": light, "error": error, "science": science, "mask": np.zeros(light.shape, bool)}
    return {name: v.reshape(2, -1) for name, v in flat.items()} | {"dx": np.zeros(2), "dy": np.zeros(2)}


def test_the_truth_has_no_bias_and_a_blurred_one_is_larger() -> None:
    from scipy.ndimage import gaussian_filter

    def true(batch):
        return batch["clean"].reshape(2, len(BANDS), S, S)

    def blurred(batch):
        return gaussian_filter(true(batch), (0, 0, 2, 2))

    table = shape_table({"true": true, "blurred": blurred}, galaxies(), S, (0.0, *EDGES))
    true_row, blurred_row = (table[name]["10-1000"] for name in ("true", "blurred"))
    assert true_row["measured"] == blurred_row["measured"] == [1.0, 1.0]
    assert true_row["rhalf_circ"][0] == pytest.approx(0, abs=1e-6)
    assert blurred_row["rhalf_circ"][0] > 0.1
    faint = table["true"]["0-10"]
    assert faint["measured"] == [0.0, 1.0]
    assert np.isnan(faint["gini"]).all()


def test_scatter_is_that_of_a_normal_distribution() -> None:
    middle, scatter = middle_and_scatter(np.random.default_rng(1).normal(3.0, 2.0, 20_000))
    assert middle == pytest.approx(3.0, abs=0.05)
    assert scatter == pytest.approx(2.0, rel=0.03)
