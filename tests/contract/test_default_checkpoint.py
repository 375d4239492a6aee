"""The checkpoints of spectra that come with the project: they load, fit the code, and find what they should."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from engine.checkpoint import load
from engine.flags import LOW_COVERAGE
from engine.infer import model_config, open_model
from engine.schema import matrix
from engine.sources.desi import DesiSource
from engine.spectra.prepare import PrepareSpectra, SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from engine.synthetic.simulate import simulate
from models import MODELS
from models.spec import Predict
from models.spectral_vae_config import PRESETS, SpectralVAEConfig

FOLDER = Path(__file__).parents[2] / "checkpoints"
SPEC = MODELS["spectral_vae"]
MAX_FILE_BYTES = 16_000_000
REST = SpectrumPrep(
    frame="rest", rest_wave_min_angstrom=640.0, rest_wave_max_angstrom=9840.0, num_rest_pixels=2860
)


@dataclass(frozen=True)
class Shipped:
    """A checkpoint, and what it must be."""

    uri: str
    config: SpectralVAEConfig
    prepare: SpectrumPrep
    least_steps: int

    def open(self) -> Predict:
        """Load and make the predictor."""
        checkpoint = load(self.uri, Storage(), SPEC.name, SPEC.version)
        config, module = open_model(SPEC, checkpoint, self.uri)
        return SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))

    def score(self, num: int, seed: int, config: SimulateConfig) -> dict[str, np.ndarray]:
        """Score simulated spectra; with `anomaly`."""
        spectra = simulate(num, seed, config)
        z = spectra.truth.z_reported
        ready = prepare(spectra.flux, spectra.ivar, z, self.prepare).spectra
        spectype = spectra.spectype.astype(object)
        out = self.open()({"flux": ready.flux, "ivar": ready.ivar, "spectype": spectype, "z": z})
        return out | {"anomaly": spectra.anomaly}


OBSERVED = Shipped(str(FOLDER / "spectral_vae_desi"), SpectralVAEConfig(), SpectrumPrep(), 9_000)
REST_FRAME = Shipped(str(FOLDER / "spectral_vae_rest"), PRESETS["rest_2860x10"], REST, 2_000)
both = pytest.mark.parametrize("shipped", [OBSERVED, REST_FRAME], ids=["observed", "rest"])


@both
def test_files_are_small_and_say_how_they_were_made(shipped: Shipped) -> None:
    checkpoint = load(shipped.uri, Storage())
    assert max(path.stat().st_size for path in Path(shipped.uri).iterdir()) <= MAX_FILE_BYTES
    assert checkpoint.provenance["command"].startswith("python -m benchmarks.train_default")
    passes = checkpoint.provenance.get("passes", 1)
    assert checkpoint.provenance["num_spectra"] * passes / 128 >= shipped.least_steps
    assert checkpoint.history
    assert "/work" not in str(checkpoint.provenance)


@both
def test_settings_are_the_defaults(shipped: Shipped) -> None:
    checkpoint = load(shipped.uri, Storage())
    assert model_config(SPEC, checkpoint.config, shipped.uri) == shipped.config
    assert SpectrumPrep.model_validate(checkpoint.prepare) == shipped.prepare


@both
def test_normal_spectra_of_another_seed_are_normal(shipped: Shipped) -> None:
    out = shipped.score(384, 77_001, SimulateConfig())
    for name in ("reduced_chi2", "latent_distance", "log_likelihood"):
        # Calibrated on a harder mix (calibration errors, templates), so not uniform: but neither 0 nor 100.
        assert 20 < np.median(out[f"{name}_percentile"]) < 80, name
    assert (out["anomaly_score"] > 3).mean() < 0.02
    assert (out["flags"] & LOW_COVERAGE.value == 0).all()


@both
def test_artefacts_rank_above_normal_spectra(shipped: Shipped) -> None:
    kinds = ("bad_columns", "sky_residual", "wrong_normalisation", "arm_offset")
    mix = SimulateConfig(anomaly_fraction=0.5, anomaly_kinds=kinds)
    out = shipped.score(384, 77_002, mix)
    normal = out["anomaly"] == ""
    above = stats.mannwhitneyu(out["anomaly_score"][~normal], out["anomaly_score"][normal])
    assert above.statistic / (normal.sum() * (~normal).sum()) > 0.85


def test_wrong_redshifts_show_in_the_rest_frame() -> None:
    mix = SimulateConfig(anomaly_fraction=0.5, anomaly_kinds=("wrong_redshift",))
    out = REST_FRAME.score(384, 77_003, mix)
    normal = out["anomaly"] == ""
    above = stats.mannwhitneyu(out["reduced_chi2"][~normal], out["reduced_chi2"][normal])
    assert above.statistic / (normal.sum() * (~normal).sum()) > 0.85


@pytest.mark.data
def test_real_spectra_are_not_all_at_the_end_of_the_scale(shared_data: Path) -> None:
    predict = OBSERVED.open()
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
