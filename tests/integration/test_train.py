"""Ray Train against a bare torch loop over the same files: the same losses, also after being killed."""

import dataclasses
import json
import platform
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.commit import parquet
from engine.errors import EngineError
from engine.schema import list_array
from engine.storage import Storage
from engine.train.batches import Splitter, read_tables, shuffled_batches
from engine.train.loop import TrainConfig, TrainData, train
from engine.train.plan import epoch_plan, expected_steps, ordered_files
from engine.units import FileRef
from models import band_gan, spectral_vae
from models.band_gan_config import BandGANConfig
from models.scoring.band_columns import BandScoringConfig
from tests import toymodel
from tests.cutouts import make_cutouts

GOLDEN = Path(__file__).parents[1] / "golden" / "spectral_vae.json"
GOLDEN_STEPS = 20
COMMAND = "python -m pytest tests/integration/test_train.py --rewrite-golden"
CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_session"),
    # Ray's own: sockets of its actors and its use of pkg_resources are not in our hands.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]


def write_files(root: str, columns: dict[str, np.ndarray], sizes: list[int], storage: Storage) -> TrainData:
    table = pa.table({n: list_array(v) if v.ndim == 2 else pa.array(v) for n, v in columns.items()})
    files = []
    for index, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        data = parquet.to_bytes(table.slice(int(start), sizes[index]), row_group_rows=32)
        uri = storage.join(root, f"part-{index}.parquet")
        storage.put(uri, data)
        files.append(FileRef(uri, len(data), f"f{index}"))
    names = tuple(name for name in columns if name != "split_hash")
    return TrainData(tuple(files), table.num_rows, names)


def toy_data(root: str, storage: Storage) -> TrainData:
    rng = np.random.default_rng(5)
    flux = rng.normal(size=(400, 4)).astype(np.float32)
    y = (flux @ np.array([1, -2, 0.5, 0], np.float32) + 0.3).astype(np.float32)
    columns = {"flux": flux, "y": y, "split_hash": rng.random(400)}
    return write_files(root, columns, [100, 60, 140, 100], storage)


def spectra_data(root: str, num_pixels: int) -> TrainData:
    """Spectra as prepared: continua of random slope with a line and noise."""
    rng = np.random.default_rng(6)
    x = np.linspace(-1, 1, num_pixels)
    slope, height, centre = rng.normal(0, 0.3, (3, 600, 1))
    flux = 1 + slope * x + 3 * np.abs(height) * np.exp(-(((x - centre) / 0.02) ** 2))
    ivar = np.where(rng.random(flux.shape) > 0.05, 100.0, 0.0)
    flux = np.where(ivar > 0, flux + rng.normal(0, 0.1, flux.shape), 0)
    columns = {
        "flux": flux.astype(np.float32),
        "ivar": ivar.astype(np.float32),
        "split_hash": rng.random(600),
    }
    return write_files(root, columns, [250, 150, 200], Storage())


def bare_losses(factory, data: TrainData, config: TrainConfig, storage: Storage) -> list[float]:
    """Train without Ray: the loop that `train` must agree with."""
    task, plan, losses = factory(), epoch_plan(data, config), []
    task.start(CPU, expected_steps(data.num_rows, config))
    for epoch in range(config.epochs):
        uris = [file.uri for file in ordered_files(data, config.seed)]
        tables = read_tables(uris, [*data.columns, "split_hash"], storage, 37)
        rows = Splitter(plan.validation_fraction, plan.monitored_fraction).training_rows(tables)
        for batch in shuffled_batches(
            rows, data.columns, config.global_batch_rows, plan.buffer_rows, config.seed, epoch
        ):
            losses.append(task.step(batch, len(losses))["loss"])
    return losses


def test_golden_spectral_vae(tmp_path, rewrite_golden):
    model = spectral_vae.SpectralVAEConfig(
        num_pixels=200, num_latent=2, hidden=(32, 16), wave_max_angstrom=3759.2, precision="float32"
    )
    data = spectra_data(str(tmp_path), model.num_pixels)
    config = TrainConfig(
        epochs=2, global_batch_rows=48, shuffle_buffer_rows=200, validation_fraction=0.1, threads_per_worker=1
    )
    factory = partial(spectral_vae.SPEC.task, model, 0)
    seen = []
    result = train(factory, data, config, str(tmp_path / "runs"), Storage(), {"model": "vae"}, seen.append)
    bare = bare_losses(factory, data, config, Storage())
    assert len(bare) >= GOLDEN_STEPS
    np.testing.assert_allclose(result.step_losses, bare, rtol=1e-6)
    if rewrite_golden:
        write_golden(bare[:GOLDEN_STEPS])
    golden = json.loads(GOLDEN.read_text())
    np.testing.assert_allclose(bare[:GOLDEN_STEPS], golden["losses"], rtol=golden["rtol"])

    assert [message["epoch"] for message in seen if "epoch" in message] == [1, 2]
    assert [epoch["step"] for epoch in result.history] == [len(bare) // 2, len(bare)]
    assert {"train_loss", "val_loss", "rows_per_s"} <= result.history[0].keys()
    spectral_vae.SPEC.build(model).load_state_dict(
        {name: torch.from_numpy(array) for name, array in result.weights.items()}
    )


def write_golden(losses: list[float]) -> None:
    golden = {
        "what": "loss of the first 20 steps of a small spectral VAE on synthetic continua",
        "losses": losses,
        "rtol": 1e-4,
        "reason": "sums of float32 in another order (BLAS, vector width): 1e-7 a step, growing with the steps",
        "command": COMMAND,
        "device": f"cpu {platform.machine()}, float32, 1 thread",
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def cutout_data(root: str, storage: Storage, rows: int = 48) -> TrainData:
    columns = make_cutouts(rows, BAND_GAN.size, seed=4)
    rng = np.random.default_rng(4)
    return write_files(root, columns | {"split_hash": rng.random(rows)}, [20, rows - 20], storage)


BAND_GAN = BandGANConfig(
    size=16, levels=2, width=4, discriminator_width=4, adversarial_noise=False, precision="float32",
    scoring=BandScoringConfig(num_latent=2),
)  # fmt: skip
"""Without noise that each worker would draw for its own rows."""


def test_two_workers_on_s3_take_the_steps_of_one_with_the_same_rows(moto_server):
    """Two networks with an optimiser each, as one task: `engine.train` has no branch for it.

    One step an epoch, over all rows: then the order of rows does not matter and only DDP is tested.
    """
    storage, root = Storage(moto_server.options), moto_server.make_bucket("train")
    data = cutout_data(root, storage)
    config = TrainConfig(
        epochs=3, global_batch_rows=data.num_rows, validation_fraction=0, num_workers=2, max_failures=0
    )
    factory = partial(band_gan.SPEC.task, BAND_GAN, 0)
    result = train(factory, data, config, f"{root}/runs", storage, {"model": "band_gan"})
    bare = bare_losses(factory, data, config, storage)
    means = [epoch["train_loss"] for epoch in result.history]
    np.testing.assert_allclose(means, bare, rtol=1e-5)
    assert {name.partition(".")[0] for name in result.weights} == {"generator", "discriminator"}
    stored = [file.uri for file in storage.list(f"{root}/runs/{result.run_id}", "state.safetensors")]
    assert 1 <= len(stored) <= config.checkpoints_to_keep


@pytest.mark.timeout(600)  # starts workers twice, each a dozen processes: slow on a busy machine
def test_a_killed_run_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path):
    data = toy_data(str(tmp_path), Storage())
    config = TrainConfig(
        epochs=3, global_batch_rows=32, validation_fraction=0.2, max_failures=0, shuffle_buffer_rows=64
    )
    plain = toymodel.ToyConfig()
    bare = bare_losses(partial(toymodel.ToyTask, plain, 0), data, config, Storage())
    steps = len(bare) // config.epochs
    marker = str(tmp_path / "killed")
    deadly = dataclasses.replace(plain, kill_at_step=2 * steps + 1, kill_marker=marker)
    factory = partial(toymodel.ToyTask, deadly, 0)
    arguments = (data, config, str(tmp_path / "runs"), Storage(), {"model": "toy"})
    with pytest.raises(EngineError, match="goes on after the last stored epoch"):
        train(factory, *arguments)
    seen = []
    result = train(factory, *arguments, seen.append)
    assert [message["epoch"] for message in seen if "epoch" in message] == [3]
    np.testing.assert_allclose(result.step_losses, bare, rtol=1e-6)
    best = min(result.history, key=lambda epoch: epoch["val_loss"])
    assert result.metrics == best

    def never_called():
        raise AssertionError("a finished run starts no worker")

    again = train(never_called, *arguments)
    assert (again.history, again.step_losses) == (result.history, result.step_losses)


@pytest.mark.timeout(600)  # starts workers twice
def test_a_worker_that_dies_is_replaced_and_the_same_run_goes_on(tmp_path):
    """In the middle of the third epoch, of which nothing is kept: the second is the newest state."""
    data = toy_data(str(tmp_path), Storage())
    config = TrainConfig(
        epochs=4, global_batch_rows=32, validation_fraction=0.2, max_failures=1, shuffle_buffer_rows=64
    )
    plain = toymodel.ToyConfig()
    bare = bare_losses(partial(toymodel.ToyTask, plain, 0), data, config, Storage())
    steps = len(bare) // config.epochs
    marker = tmp_path / "killed"
    deadly = dataclasses.replace(plain, kill_at_step=2 * steps + steps // 2, kill_marker=str(marker))
    seen = []
    result = train(
        partial(toymodel.ToyTask, deadly, 0),
        data,
        config,
        str(tmp_path / "runs"),
        Storage(),
        {"model": "toy"},
        seen.append,
    )
    assert marker.exists(), "no worker died"
    assert [message["epoch"] for message in seen if "epoch" in message] == [1, 2, 3, 4]
    assert [epoch["step"] for epoch in result.history] == [steps * epoch for epoch in (1, 2, 3, 4)]
    np.testing.assert_allclose(result.step_losses, bare, rtol=1e-6)
