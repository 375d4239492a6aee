"""The redshift-aware autoencoder: where rest-frame light lands, what a redshift changes, what is refused, golden losses."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.redshift_vae import SPEC, AtRedshifts, RedshiftVAE, RedshiftVAETask, interpolate
from models.redshift_vae_config import RedshiftVAEConfig
from models.scoring.spectral import ScoringConfig
from tests.goldenlosses import compare

CPU = torch.device("cpu")
TINY = RedshiftVAEConfig(
    num_pixels=300, num_latent=2, hidden=(32, 16), channels=(4, 6, 8), wave_min_angstrom=4000.0, wave_max_angstrom=8000.0,
    rest_wave_min_angstrom=2000.0, rest_wave_max_angstrom=8100.0, num_rest_pixels=1200, window_pixels=32, precision="float32",
    learning_rate=3e-3, scoring=ScoringConfig(num_reference=60, num_neighbours=5, min_class_rows=20, batch_rows=16),
)  # fmt: skip
WAVE = np.linspace(4000.0, 8000.0, 300)


def line_spectra(num: int, seed: int) -> dict[str, np.ndarray]:
    """Flat spectra with one emission line at 3500 Angstrom at rest, seen at redshifts 0.2 to 1.2."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.2, 1.2, num)
    line = 3 * np.exp(-0.5 * ((WAVE / (1 + z[:, None]) - 3500) / 25) ** 2)
    flux = 1 + line + rng.normal(0, 0.05, line.shape)
    ivar = np.full(flux.shape, 400, np.float32)
    return {"flux": flux.astype(np.float32), "ivar": ivar, "spectype": np.full(num, "GALAXY", object), "z": z}


@pytest.fixture(scope="module")
def trained() -> RedshiftVAE:
    task = RedshiftVAETask(TINY, 0)
    task.start(CPU, 250)
    for step in range(250):
        task.step(line_spectra(32, step), step)
    network = task.modules["vae"].eval()
    assert isinstance(network, RedshiftVAE)
    return network


def test_interpolation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    rest, position = rng.normal(size=(3, 20)), rng.uniform(-3, 23, (3, 50))
    found = interpolate(torch.tensor(rest), torch.tensor(position))
    for row in range(3):
        np.testing.assert_allclose(found[row], np.interp(position[row], np.arange(20), rest[row]), rtol=1e-12)


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_rest_frame_line_is_seen_at_its_wavelength_times_one_plus_z(spacing) -> None:
    config = replace(TINY, wave_spacing=spacing)
    network = RedshiftVAE(config).eval()
    rest_wave = np.geomspace(2000.0, 8100.0, 1200)
    wave = WAVE if spacing == "linear" else np.geomspace(4000.0, 8000.0, 300)
    with torch.no_grad():
        network.rest_out.weight.zero_()
        network.rest_out.bias.copy_(torch.tensor(np.exp(-0.5 * ((rest_wave - 3500) / 25) ** 2)))
        network.scale_out.weight.zero_()
        network.scale_out.bias.zero_()
        redshift = torch.tensor([0.25, 0.6, 1.0])
        mean, _ = network.decode(torch.zeros(3, 2), redshift)
    for row, z in enumerate((0.25, 0.6, 1.0)):
        flux = mean[row].numpy()
        centre = (flux * wave * np.gradient(wave)).sum() / (flux * np.gradient(wave)).sum()
        assert centre == pytest.approx(3500 * (1 + z), rel=2e-4)


def test_a_wrong_redshift_is_seen(trained: RedshiftVAE) -> None:
    fitted = SPEC.fit(TINY, trained, [line_spectra(200, 1001)], [line_spectra(400, 1002)])
    predict = SPEC.predictor(TINY, trained, fitted, CPU)
    right = line_spectra(100, 1003)
    wrong = {**right, "z": right["z"] + 0.15}
    found = [predict(batch)["reduced_chi2"] for batch in (right, wrong)]
    assert np.median(found[1]) > 2 * np.median(found[0])
    assert np.mean(predict(wrong)["anomaly_score"] > np.quantile(predict(right)["anomaly_score"], 0.95)) > 0.9


@pytest.mark.parametrize("z", [np.nan, -1.0, -2.0, np.inf])
def test_a_row_without_a_redshift_has_no_scores(trained: RedshiftVAE, z: float) -> None:
    fitted = SPEC.fit(TINY, trained, [line_spectra(80, 1)], [line_spectra(80, 2)])
    predict = SPEC.predictor(TINY, trained, fitted, CPU)
    batch = line_spectra(40, 3)
    wanted = predict(batch)
    batch["z"][7] = z
    out = predict(batch)
    assert np.isnan(out["anomaly_score"][7])
    assert out["flags"][7]
    others = np.arange(40) != 7
    np.testing.assert_allclose(out["anomaly_score"][others], wanted["anomaly_score"][others], rtol=1e-4)
    task = RedshiftVAETask(TINY, 0)
    task.start(CPU, 10)
    assert np.isfinite(task.step(batch, 0)["loss"])


def test_threads_do_not_see_each_others_redshifts(trained: RedshiftVAE) -> None:
    at = AtRedshifts(trained)
    batches = [line_spectra(48, seed) for seed in range(4)]
    wanted = [AtRedshifts(trained) for _ in batches]

    def latents(one: AtRedshifts, batch) -> np.ndarray:
        told = one.tell(batch)
        barrier.wait()
        with torch.inference_mode():
            flux, ivar = (torch.tensor(told[name]) for name in ("flux", "ivar"))
            return torch.cat([one.encode(flux[i : i + 16], ivar[i : i + 16])[0] for i in (0, 16, 32)]).numpy()

    barrier = threading.Barrier(1)
    alone = [latents(one, batch) for one, batch in zip(wanted, batches, strict=True)]
    barrier = threading.Barrier(len(batches))
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, latents(at, batches[i]))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, values in enumerate(alone):
        np.testing.assert_array_equal(found[index], values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (4, 6)}, "channels"),
        ({"channels": (4, 6, 7)}, "channels"),
        ({"kernel_pixels": 4}, "kernel_pixels"),
        ({"rest_wave_min_angstrom": 9000.0}, "rest_wave_min_angstrom"),
        ({"num_rest_pixels": 1}, "num_rest_pixels"),
        ({"num_latent": 4}, "num_latent"),
    ],
)
def test_settings_out_of_range_are_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    task = SPEC.task(TINY, 1)
    task.start(CPU, 20)
    losses = [task.step(line_spectra(16, step), step)["loss"] for step in range(20)]
    what = "loss of the first 20 steps of a tiny redshift-aware autoencoder on flat spectra with a line"
    compare("redshift_vae", losses, rewrite_golden, what, "make golden", rtol=2e-3)
