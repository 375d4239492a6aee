"""Asked against measured: what the numbers say of agreement, and that they are kept and come again."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import conditions
from benchmarks.conditions import agreement


def test_correlation_bias_and_scatter_of_what_is_measured() -> None:
    rng = np.random.default_rng(1)
    asked = rng.uniform(1, 4, 400)
    measured = asked + 0.3 + rng.normal(0, 0.1, 400)
    measured[:7] = np.nan
    found = agreement(asked, measured)
    assert found.num == 393
    assert found.low < found.correlation < found.high
    assert found.correlation == pytest.approx(np.sqrt(0.75 / 0.76), abs=0.002)
    assert found.bias == pytest.approx(0.3, abs=3 * found.bias_error)
    assert found.scatter == pytest.approx(0.1, rel=0.15)


def test_nothing_is_said_of_too_few_or_equal_values() -> None:
    for measured in (np.array([1.0, 2.0, np.nan, np.nan, np.nan]), np.ones(5)):
        found = agreement(np.arange(5.0), measured)
        assert np.isnan(found.correlation)
        assert found.num == np.isfinite(measured).sum()


def test_a_generator_is_asked_for_what_real_images_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--size 16 --num 12 --num-train 64 --core-s 0 --generator-preset tiny --generator image_vae"
    args = conditions.arguments().parse_args([*words.split(), "--folder", str(tmp_path)])
    images, asked = conditions.drawn(args.num, args.size, conditions.ASKED_SEED)
    seen: list[np.ndarray] = []

    def measure(square: np.ndarray, *_: object) -> dict[str, np.ndarray]:
        seen.append(square)
        return {"rhalf_circ": asked[:, 0] / 0.64, "sersic_n": asked[:, 1] + 1}

    monkeypatch.setattr(conditions, "measure", measure)
    found = conditions.experiment(args)
    assert {*found} == {"real", "image_vae"}
    np.testing.assert_array_equal(seen[0].reshape(12, -1), images)
    radius, index = found["image_vae"].values()
    assert (radius.bias, index.bias) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    assert conditions.experiment(args) == found
    assert len(seen) == 2, "kept"
    lines = conditions.table(found)
    assert lines[-1].split()[:2] == ["image_vae", "sersic_n"]
