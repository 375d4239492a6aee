"""Benchmarks of ranks and labels at the smallest sizes: they run, and say what they are asked."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    broad_lines,
    injected_anomalies,
    labelling_curves,
    latent_detectors,
    rank_choice,
    track_figure,
)
from benchmarks.labelling_curves import labels_of
from engine.checkpoint import Checkpoint
from engine.spectra.prepare import SpectrumPrep
from engine.synthetic import population
from models.scoring import density
from tests.cutouts import make_cutouts
from tests.smallmodels import predictor

ROOT = Path(__file__).parents[2]
REST, OBSERVED = (f"checkpoints/spectral_vae_{name}" for name in ("rest", "desi"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for module in (injected_anomalies, rank_choice):
        monkeypatch.setattr(module, "CHUNK_ROWS", 64)


def test_one_who_looks_for_one_kind_wants_nothing_else() -> None:
    kind = np.array(["", "blend", "arm_offset", "wrong_redshift"])
    assert labels_of(kind).tolist() == [0, 5, 1, 5]
    assert labels_of(kind, "wrong_redshift").tolist() == [0, 0, 0, 5]
    assert labels_of(kind, "arm_offset").tolist() == [0, 0, 5, 0]


LABELS = ["--num-spectra", "128", "--anomaly-fraction", "0.5", "--labels", "10", "--batch", "5", "--repeats", "1",
          "--num-workers", "0"]  # fmt: skip


def test_labelling_curves_of_what_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--checkpoint", REST, "--wanted", "wrong_redshift", "--json", str(tmp_path / "c.json"),
            "--figure", str(tmp_path / "c.svg")]  # fmt: skip
    labelling_curves.main([*LABELS, *line])
    curves = json.loads((tmp_path / "c.json").read_text())
    assert set(curves) == set(labelling_curves.COLOURS)
    assert all(np.shape(curve) == (1, 10) for curve in curves.values())
    assert curves["best possible"][0][-1] > 0, "the rest frame keeps wrong redshifts"
    assert "wrong redshift found after" in capsys.readouterr().out
    assert "wrong redshift found" in (tmp_path / "c.svg").read_text()


def test_a_wrong_redshift_is_left_out_in_the_observed_frame_and_cannot_be_wanted() -> None:
    args = labelling_curves.parse([*LABELS, "--checkpoint", OBSERVED])
    latent, score, kind = labelling_curves.scored(args)
    assert len(latent) == len(score) == len(kind) < 128
    assert "wrong_redshift" not in set(kind)
    args.wanted = "wrong_redshift"
    with pytest.raises(SystemExit, match="cannot see it"):
        labelling_curves.scored(args)


def test_rank_choice_judges_every_candidate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {
        label: names for label, names in rank_choice.CANDIDATES.items() if "LOF" in label or "smooth" in label
    }
    monkeypatch.setattr(rank_choice, "CANDIDATES", few)
    rank_choice.main(["--checkpoint", REST, "--num-spectra", "256", "--num-calibration", "128", "--seeds", "1",
                      "--num-workers", "0"])  # fmt: skip
    said = capsys.readouterr().out
    for label in few:
        assert len(re.findall(rf"^{re.escape(label)} .*\d$", said, re.MULTILINE)) == 4, (
            "recall and AUROC, twice"
        )
    assert "calibrated within class and S/N" in said
    assert re.search(r"latent_forest +\d", said)


def test_draws_are_compared_with_those_of_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--checkpoint", REST, "--num-spectra", "64", "--num-workers", "0", "--draws"]
    rank_choice.main([*line, "2"])
    same = moves(capsys.readouterr().out)
    assert set(same["anomaly_score"]) == {0.0}, "as many draws as the checkpoint has change nothing"
    rank_choice.main([*line, "8"])
    said = capsys.readouterr().out
    assert 0 < moves(said)["reduced_chi2_percentile"][-1] <= 100
    assert set(moves(said)["latent_distance_percentile"]) == {0.0}, "the mean has no draws"
    assert "stay" in said


def moves(said: str) -> dict[str, list[float]]:
    """Numbers of each line of the table."""
    lines = [line.split() for line in said.splitlines()[1:-1]]
    return {name: [float(cell) for cell in cells] for name, *cells in lines}


def test_latent_detectors_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predict, _, fitted = predictor("band_gan")
    monkeypatch.setattr(density, "MAX_EPOCHS", 1)  # what the flow learns does not matter here

    def batches(args: object, seed: int, size: int) -> list:
        batch = make_cutouts(160, size, seed % 1000)
        anomaly = np.where(np.arange(160) % 4 == 0, "merger", "").astype(object)
        batch |= {"anomaly": anomaly, "kind": np.full(160, "galaxy", object)}
        return [(batch, make_cutouts(160, size, seed % 1000, noise=1e-6)["science"])]

    reference = np.random.default_rng(0).normal(size=(100, fitted["latent_reference"].shape[1])).astype("f4")
    kept = Checkpoint("band_gan", 1, {}, {}, {}, {"latent_reference": reference})
    monkeypatch.setattr(latent_detectors, "open_all", lambda uris: (24, {"band_gan": predict}))
    monkeypatch.setattr(latent_detectors, "load", lambda uri, storage: kept)
    monkeypatch.setattr(latent_detectors, "test_batches", batches)
    latent_detectors.main(["--num-workers", "1"])
    said = capsys.readouterr().out
    assert "100 normal objects to learn from, 120 to calibrate" in said
    head = next(line for line in said.splitlines() if line.startswith("| AUROC |"))
    alone = ("distance", "lof", "forest", "density")
    for name in (*alone, latent_detectors.OFF, *(f"{name}, {latent_detectors.OFF}" for name in alone)):
        assert f"| {name} |" in head
    assert said.count("| merger |") == 2


def test_a_track_is_drawn_without_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(track_figure, "CHUNK_ROWS", 128)
    monkeypatch.setattr("jobs.tracks.MIN_OBJECTS", 5)
    svg = tmp_path / "track.svg"
    line = ["--property", "oii_ew", "--figure", str(svg)]
    track_figure.main([*line, "--num-spectra", "128"])
    text = svg.read_text()
    assert text.startswith("<svg")
    assert "[O II] equivalent width" in text
    assert re.search(
        r"\[O II\] equivalent width.*: \d+ objects, R2 -?\d\.\d\d \(plane\)", capsys.readouterr().out
    )
    monkeypatch.setattr("jobs.tracks.MIN_OBJECTS", 1000)
    with pytest.raises(SystemExit, match="Too few objects"):
        track_figure.main([*line, "--num-spectra", "128"])


def test_coordinates_of_a_figure_are_rounded_and_nothing_else() -> None:
    svg = '<path d="M 1.2345 6.7\nL 8 9.0001" style="opacity: 0.123"/><use x="3.999" y="5"/>'
    short = '<path d="M 1.2 6.7\nL 8 9.0" style="opacity: 0.123"/><use x="3.9" y="5"/>'
    assert track_figure.rounded(svg) == short


def test_only_what_is_asked_for_is_simulated_and_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = dict(zip(population.TARGETS, track_figure.mix(("QSO", "STAR")).target_fractions(), strict=True))
    assert shares == pytest.approx({"BGS": 0, "LRG": 0, "ELG": 0, "QSO": 13 / 30, "STAR": 17 / 30})
    assert track_figure.mix(population.TARGETS) == population.SimulateConfig()
    seen = []

    def follow(one: Any, sample: Any, reader: Any, found: Any) -> None:
        seen.append(sample)
        found.notes.append("Not today.")

    monkeypatch.setattr(track_figure, "CHUNK_ROWS", 64)
    monkeypatch.setattr(track_figure, "follow", follow)
    with pytest.raises(SystemExit, match="Not today"):
        track_figure.main(["--targets", "QSO", "--min-snr", "3", "--num-spectra", "64"])
    assert set(seen[0].spectype) == {"QSO"}
    assert 0 < len(seen[0].snr) < 64
    assert seen[0].snr.min() >= 3


def test_widths_that_were_drawn_are_compared_with_latents_beside_those_measured() -> None:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 2))
    drawn = 4500 + 1000 * latent[:, 0]
    measured = np.where(np.arange(300) < 250, drawn + rng.normal(0, 3000, 300), np.nan)
    snr = np.where(np.arange(300) % 2 == 0, 3.0, 10.0)
    lines = broad_lines.report(broad_lines.Quasars(drawn, measured, snr, latent)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert [cell[:3] for cell in cells] == [
        ["2", "drawn", "250"], ["2", "measured", "250"], ["8", "drawn", "125"], ["8", "measured", "125"],
    ]  # fmt: skip
    assert float(cells[0][3]) == pytest.approx(1, abs=0.01), "the latents hold it"
    assert float(cells[1][3]) < 0.3
    assert "above S/N 8: 0.1" in lines[-1]


def test_quasars_have_h_beta_in_view_and_the_width_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broad_lines, "CHUNK_ROWS", 24)
    objects = broad_lines.near_quasars(24, 0.9, np.random.default_rng(0))
    assert (len(objects.z), set(objects.target)) == (24, {"QSO"})
    assert objects.z.max() < 0.9
    scorer = SimpleNamespace(latent_mean=lambda flux, ivar: flux[:, :2])
    how = SpectrumPrep()
    (found,) = broad_lines.encoded(SimpleNamespace(num_spectra=20, max_redshift=0.9), scorer, how)
    assert found.drawn.shape == found.measured.shape == found.snr.shape == (24,)
    assert found.latent.shape == (24, 2)
    clear = np.isfinite(found.measured) & (found.snr > 4)
    assert clear.sum() > 4
    ratio = found.measured[clear] / found.drawn[clear]
    assert 0.4 < np.median(ratio) < 1.6, "16 to 84 % of the flux is 0.85 FWHM of a Gaussian"
