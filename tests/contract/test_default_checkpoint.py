"""The checkpoint that comes with the project: it loads, fits the code, and finds what it should."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from engine.checkpoint import load
from engine.infer import model_config, open_model
from engine.schema import matrix
from engine.sources.desi import DesiSource
from engine.spectra.prepare import PrepareSpectra, SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from engine.synthetic.simulate import simulate
from models import MODELS
from models.spec import Predict

URI = str(Path(__file__).parents[2] / "checkpoints" / "spectral_vae_desi")
SPEC = MODELS["spectral_vae"]
MAX_FILE_BYTES = 16_000_000


@pytest.fixture(scope="module")
def predict() -> Predict:
    checkpoint = load(URI, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, URI)
    return SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))


def score(predict: Predict, num: int, seed: int, config: SimulateConfig) -> dict[str, np.ndarray]:
    spectra = simulate(num, seed, config)
    ready = prepare(spectra.flux, spectra.ivar, None, SpectrumPrep()).spectra
    batch = {"flux": ready.flux, "ivar": ready.ivar, "spectype": spectra.spectype.astype(object)}
    return predict(batch) | {"anomaly": spectra.anomaly}


def test_files_are_small_and_say_how_they_were_made() -> None:
    checkpoint = load(URI, Storage())
    assert max(path.stat().st_size for path in Path(URI).iterdir()) <= MAX_FILE_BYTES
    assert checkpoint.provenance["command"].startswith("python -m benchmarks.train_default")
    assert checkpoint.provenance["num_spectra"] >= 1_000_000
    assert checkpoint.history
    assert "/work" not in str(checkpoint.provenance)


def test_settings_are_the_defaults() -> None:
    checkpoint = load(URI, Storage())
    assert model_config(SPEC, checkpoint.config, URI) == SPEC.config()
    assert SpectrumPrep.model_validate(checkpoint.prepare) == SpectrumPrep()


def test_normal_spectra_of_another_seed_are_normal(predict: Predict) -> None:
    out = score(predict, 384, 77_001, SimulateConfig())
    for name in ("reduced_chi2", "latent_distance", "log_likelihood"):
        # Calibrated on a harder mix (calibration errors, templates), so not uniform: but neither 0 nor 100.
        assert 20 < np.median(out[f"{name}_percentile"]) < 80, name
    assert (out["anomaly_score"] > 3).mean() < 0.02


def test_artefacts_rank_above_normal_spectra(predict: Predict) -> None:
    kinds = ("bad_columns", "sky_residual", "wrong_normalisation", "arm_offset")
    mix = SimulateConfig(anomaly_fraction=0.5, anomaly_kinds=kinds)
    out = score(predict, 384, 77_002, mix)
    normal = out["anomaly"] == ""
    above = stats.mannwhitneyu(out["anomaly_score"][~normal], out["anomaly_score"][normal])
    assert above.statistic / (normal.sum() * (~normal).sum()) > 0.85


@pytest.mark.data
def test_real_spectra_are_not_all_at_the_end_of_the_scale(predict: Predict, shared_data: Path) -> None:
    found: list[float] = []
    for folder in ("fastspecfit", "specutils"):
        source = DesiSource(str(shared_data / "desi" / folder))
        for unit in source.plan():
            rows = PrepareSpectra().open()(source.read(unit)).rows
            if rows.num_rows:
                spectype = np.array(rows["spectype"].to_pylist(), object)
                batch = {"flux": matrix(rows, "flux"), "ivar": matrix(rows, "ivar"), "spectype": spectype}
                found += predict(batch)["reduced_chi2_percentile"].tolist()
    assert len(found) >= 4
    assert np.median(found) < 99
