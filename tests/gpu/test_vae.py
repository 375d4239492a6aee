"""The spectral VAE gives the same numbers on a GPU as on a CPU. Skipped without CUDA.

Tolerances: sums of 1000 products in another order differ by 1e-6 in float32, which 20 steps of AdamW carry to
1e-3 of the loss; bfloat16 has 8 bits.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.infer import tuned
from models import MODELS
from models.scoring.spectral import ScoringConfig
from models.spectral_vae_config import PRESETS, SpectralVAEConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPEC = MODELS["spectral_vae"]
CONFIG = replace(
    PRESETS["rest_1000x10"],
    precision="float32",
    scoring=ScoringConfig(num_reference=100, num_neighbours=5, min_class_rows=20),
)


def make_batch(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Smooth continua with noise and unusable pixels."""
    rng = np.random.default_rng(seed)
    shape = (rows, CONFIG.num_pixels)
    continuum = 1 + rng.normal(0, 0.3, (rows, 1)) * np.linspace(-1, 1, CONFIG.num_pixels)
    ivar = 100.0 * (rng.random(shape) > 0.1)
    flux = np.where(ivar > 0, continuum + rng.normal(0, 0.1, shape), 0)
    spectype = np.array(["GALAXY", "QSO", "STAR", None], object)[rng.integers(0, 4, rows)]
    return {"flux": flux.astype(np.float32), "ivar": ivar.astype(np.float32), "spectype": spectype}


@pytest.fixture(autouse=True)
def exact_float32():
    """Products in float32, not in the 10 bits of TF32, which PyTorch may use for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def curve(config: SpectralVAEConfig, device: torch.device) -> np.ndarray:
    """Losses of 20 steps; on a GPU the task compiles its module."""
    task = SPEC.task(config, 0)
    task.start(device, 20)
    return np.array([task.step(make_batch(64, step), step)["loss"] for step in range(20)])


def test_losses_of_20_steps_are_those_of_the_cpu() -> None:
    on_cpu, on_gpu = curve(CONFIG, CPU), curve(CONFIG, CUDA)
    assert on_gpu[-1] < on_gpu[0]
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_compiled_steps_are_those_of_the_plain_module() -> None:
    compiled = curve(CONFIG, CUDA)
    with torch.compiler.set_stance("force_eager"):
        plain = curve(CONFIG, CUDA)
    np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-3)


def test_bfloat16_is_chosen_where_the_gpu_has_it_and_stays_near_float32() -> None:
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("the GPU has no bfloat16")
    low, auto = (curve(replace(CONFIG, precision=name), CUDA) for name in ("bfloat16", "auto"))
    np.testing.assert_array_equal(auto, low)
    np.testing.assert_allclose(low, curve(CONFIG, CUDA), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_scores_are_those_of_the_cpu(precision: str, tolerance: float) -> None:
    torch.manual_seed(0)
    module = SPEC.build(CONFIG).eval()
    fitted = SPEC.fit(CONFIG, module, [make_batch(120, 1)], [make_batch(120, 2)])
    batch = make_batch(90, 3)
    wanted = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    on_gpu, in_precision = tuned(module.to(CUDA), CUDA, precision)
    found = in_precision(SPEC.predictor(CONFIG, on_gpu, fitted, CUDA))(batch)
    for name in ("reduced_chi2", "log_likelihood", "latent_distance", "latent_mean"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert found.keys() == wanted.keys()
