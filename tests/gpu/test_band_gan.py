"""The band GAN gives the same numbers on a GPU as on a CPU. Skipped without CUDA.

Tolerances: sums of some hundred products in another order differ by 1e-6 in float32, which 20 steps of two Adams carry
to 1e-2 of the loss; bfloat16 has 8 bits.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.infer import tuned
from models import MODELS
from models.band_gan_config import PRESETS, BandGANConfig
from models.scoring.band_columns import BandScoringConfig
from tests.cutouts import make_cutouts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SPEC = MODELS["band_gan"]
SCORING = BandScoringConfig(num_latent=4, num_reference=100, num_neighbours=5, min_class_rows=20)
CONFIG = BandGANConfig(
    size=48, width=16, discriminator_width=16, adversarial_noise=False, precision="float32", scoring=SCORING
)


@pytest.fixture(autouse=True)
def exact_float32():
    """Products in float32, not in the 10 bits of TF32, which cuDNN uses for speed."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def curve(config: BandGANConfig, device: torch.device, steps: int = 20) -> np.ndarray:
    """Losses of the first steps; on a GPU the task compiles its modules, channels innermost."""
    task = SPEC.task(config, 0)
    task.start(device, steps)
    return np.array([task.step(make_cutouts(32, config.size, step), step)["loss"] for step in range(steps)])


def test_losses_of_20_steps_are_those_of_the_cpu() -> None:
    on_cpu, on_gpu = curve(CONFIG, CPU), curve(CONFIG, CUDA)
    assert on_gpu[-1] < on_gpu[0]
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-2, atol=1e-2)


def test_compiled_steps_are_those_of_the_plain_modules() -> None:
    compiled = curve(CONFIG, CUDA)
    with torch.compiler.set_stance("force_eager"):
        plain = curve(CONFIG, CUDA)
    np.testing.assert_allclose(compiled, plain, rtol=1e-2, atol=1e-2)


def test_weights_lie_with_channels_innermost() -> None:
    task = SPEC.task(CONFIG, 0)
    task.start(CUDA, 1)
    for module in task.modules.values():
        weights = [p for p in module.parameters() if p.ndim == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_bfloat16_is_chosen_where_the_gpu_has_it_and_stays_near_float32() -> None:
    if torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("the GPU has no bfloat16")
    low, auto = (curve(replace(CONFIG, precision=name), CUDA) for name in ("bfloat16", "auto"))
    np.testing.assert_allclose(auto, low, rtol=1e-2)
    np.testing.assert_allclose(low, curve(CONFIG, CUDA), rtol=0.1, atol=0.1)


def test_published_preset_takes_a_step() -> None:
    config = replace(PRESETS["published"], size=48, scoring=SCORING)
    losses = curve(config, CUDA, 3)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_scores_are_those_of_the_cpu(precision: str, tolerance: float) -> None:
    torch.manual_seed(0)
    module = SPEC.build(CONFIG).eval()
    fitted = SPEC.fit(CONFIG, module, [make_cutouts(120, 48, 1)], [make_cutouts(120, 48, 2)])
    batch = make_cutouts(90, 48, 3)
    wanted = SPEC.predictor(CONFIG, module, fitted, CPU)(batch)
    on_gpu, in_precision = tuned(module.to(CUDA), CUDA, precision)
    found = in_precision(SPEC.predictor(CONFIG, on_gpu, fitted, CUDA))(batch)
    for name in ("flux_f444w", "flux_predicted_f444w", "reduced_chi2", "aperture_chi2"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert found.keys() == wanted.keys()
