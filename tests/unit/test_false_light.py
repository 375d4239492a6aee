"""What the benchmark of denoisers says of stamps without a target."""

import numpy as np
import pytest

from benchmarks.false_light import from_neighbours, from_noise, stamps
from benchmarks.latents import latent_report
from engine.images.bands import BANDS

S, SEED = 64, 7


def planes(batch: dict[str, np.ndarray]) -> np.ndarray:
    return batch["science"].reshape(-1, len(BANDS), S, S)


def test_neighbours_stand_around_an_empty_middle_and_are_bright():
    noise, around = (stamps(S, SEED, 16, num) for num in (0, 3))
    snr = np.abs(around["science"] / around["error"]).reshape(16, len(BANDS), S, S)
    assert (snr.max((1, 2, 3)) > 10).mean() > 0.6
    quiet = np.abs(noise["science"] / noise["error"])
    assert quiet.max() < 6
    middle = slice(S // 2 - 3, S // 2 + 4)
    assert np.median(snr[:, :, middle, middle]) < 2


def test_what_is_left_in_the_middle_is_measured():
    nothing = from_neighbours(lambda batch: 0 * planes(batch), S, SEED, 16)
    everything = from_neighbours(planes, S, SEED, 16)
    assert (nothing["centre_left"], nothing["centre_worst"], nothing["peaks"]) == (0, 0, 0)
    assert everything["centre_left"] == pytest.approx(everything["centre_seen"])
    assert everything["centre_left"] == pytest.approx(nothing["centre_seen"])
    assert everything["peaks"] > from_noise(planes, S, SEED, 16)["peaks"]

    def invents(batch: dict[str, np.ndarray]) -> np.ndarray:
        image = 0 * planes(batch)
        image[:, :, S // 2, S // 2] = 100.0
        return image

    made = from_neighbours(invents, S, SEED, 16)
    assert made["centre_left"] > 10
    assert made["peaks"] == 1


def test_the_kl_of_each_latent_and_the_cost_of_swapping_are_printed(capsys):
    row = {"kl": 9.0, "active_latents": 2.0, "reconstruction": 0.5, "psnr": 29.4, "swap_db": 0.7}
    latent_report({"checkpoint": row | {"kl_latents": [0.25] * 17 + [8.75]}})
    first, *rest = capsys.readouterr().out.strip().splitlines()[1:]
    assert first.split()[-2:] == ["29.40", "-0.70"]
    assert [line.split()[-2:] for line in rest] == [["0.25", "0.25"], ["0.25", "8.75"]]
