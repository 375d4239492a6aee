"""The NIRCam checkpoint that comes with the project: it fits the code and the configuration, and finds what it should."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.ceers_folds import masked, read
from benchmarks.training_cutouts import batch_of
from engine import config as engine_config
from engine.checkpoint import load
from engine.images.prepare import CutoutPrep
from engine.infer import open_model
from engine.schema import to_arrays
from engine.sources.stamps import StampsConfig, StampsSource
from engine.storage import Storage
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.cutouts import CutoutMaker
from jobs.config import JobConfig
from models import MODELS
from models.scoring.cutouts import LW_BANDS
from models.spec import Predict

ROOT = Path(__file__).parents[2]
URI = str(ROOT / "checkpoints" / "band_gan_nircam")
SPEC = MODELS["band_gan"]
MAX_FILE_BYTES = 16_000_000
SIZE = 96


@pytest.fixture(scope="module")
def predict() -> Predict:
    checkpoint = load(URI, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, URI)
    return SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))


def score(predict: Predict, seed: int, **field: object) -> dict[str, np.ndarray]:
    """Score a chunk of synthetic cutouts of bright objects."""
    maker = CutoutMaker(FieldConfig(seed=seed, **field), SIZE, faintest_mag=26.0)
    batch = batch_of(maker.chunk(0))
    return predict(batch) | {"anomaly": batch["anomaly"]}


def test_files_are_small_and_say_how_they_were_made() -> None:
    checkpoint = load(URI, Storage())
    assert max(path.stat().st_size for path in Path(URI).iterdir()) <= MAX_FILE_BYTES
    assert checkpoint.provenance["command"].startswith("python -m benchmarks.train_nircam")
    assert checkpoint.history
    assert "/work" not in str(checkpoint.provenance)


def test_configuration_uses_it_as_it_is() -> None:
    config = engine_config.load(JobConfig, str(ROOT / "jobs" / "configs" / "nircam.toml"), ())
    assert config.checkpoint is not None
    assert config.checkpoint.uri == "checkpoints/band_gan_nircam"
    assert config.release is not None
    assert config.release.settings["size"] == SIZE
    assert CutoutPrep.model_validate(load(URI, Storage()).prepare) == CutoutPrep(size=SIZE)


def test_normal_objects_of_another_seed_are_predicted(predict: Predict) -> None:
    out = score(predict, 77_001, anomaly_fraction=0.0)
    for band in LW_BANDS:
        residual = out[f"mag_residual_{band}"]
        assert abs(np.median(residual)) < 0.15, band
        assert np.median(np.abs(residual)) < 0.35, band
    for name in ("aperture_chi2", "reduced_chi2", "m_residual"):
        assert 20 < np.median(out[f"{name}_percentile"]) < 80, name


def test_strange_colours_rank_above_normal_objects(predict: Predict) -> None:
    normal = score(predict, 77_001, anomaly_fraction=0.0)["anomaly_score"]
    odd = score(predict, 77_002, anomaly_fraction=1.0, anomaly_kinds=("ero", "snowball"))["anomaly_score"]
    assert (odd[:, None] > normal[None]).mean() > 0.85


@pytest.mark.data
def test_real_galaxies_are_predicted_within_a_magnitude(predict: Predict, shared_data: Path) -> None:
    """They are redder than the synthetic ones of their redshift: what is predicted is too faint."""
    source = StampsSource(str(shared_data / "jwst" / "ceers"), config=StampsConfig(size=SIZE, unit="MJy/sr"))
    names = ("science", "error", "mask", "dx", "dy", "pixel_scale")
    for unit in source.plan():
        out = predict(to_arrays(source.read(unit).rows, names))
        for band in LW_BANDS:
            residual = out[f"mag_residual_{band}"]
            assert np.isfinite(residual).sum() > 60
            assert abs(np.nanmedian(residual)) < 1.0, band


@pytest.mark.data
def test_missing_pixels_do_not_make_a_galaxy_strange(predict: Predict, shared_data: Path) -> None:
    """The masks of two galaxies at the mosaic's border, whose inputs lack a fifth and a tenth, on those that are whole."""
    whole, partial = read(str(shared_data / "jwst" / "ceers"), load(URI, Storage()))
    before = predict(whole)["anomaly_score"]
    for name in (27030, 26418):
        (mask,) = partial["mask"][partial["object_id"] == name]
        after = predict(masked(whole, mask))["anomaly_score"]
        assert np.isfinite(after).all()
        assert (after - before).max() < 1, name
        assert (after > np.quantile(before, 0.9)).mean() < 0.2, name
