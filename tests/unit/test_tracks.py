"""Tracks: found in spectra that are read again, stored beside a version, shown by the report and the view."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from catalogs.figures import style
from catalogs.latent_space import Evidence, Regression, Track
from catalogs.query import open_catalog, run_query
from catalogs.release import load_release
from catalogs.report import build_report
from catalogs.spectral_anomaly import SPEC
from catalogs.track_charts import track_figure
from catalogs.tracks import track_uris, write_tracks
from engine.commit import read_manifest
from engine.errors import CommitError, SourceError
from engine.schema import list_array
from engine.spectra.grid import WAVE_OBS
from engine.spectra.measure import H_ALPHA
from engine.spectra.prepare import SpectrumPrep
from engine.stage import UnitTable, rejected_table
from engine.storage import Storage
from engine.units import FileRef, Unit
from jobs import gallery, tracks
from jobs.config import Place
from jobs.gallery import Reader
from tests.catalogue import NUM_LATENT, CatalogueMaker, make_rows

NUM_ROWS, UNSEEN = 400, 50


@pytest.fixture
def root(tmp_path) -> str:
    maker = CatalogueMaker(str(tmp_path / "catalogue"), Storage())
    maker.publish((NUM_ROWS, 0))
    return maker.root


def track(name: str = "h_alpha_ew") -> Track:
    steps = np.linspace(0, 1, 3)
    flux = 1 + steps[:, None] * np.exp(-0.5 * ((WAVE_OBS - 7200) / 10) ** 2)
    latent = steps[:, None] * np.ones(NUM_LATENT)
    return Track(
        name, "H α equivalent width", "Angstrom", steps, latent, WAVE_OBS, flux, 0.1, 57, (6300.0, 6800.0)
    )


def test_tracks_are_stored_once_and_shown_as_a_view(root):
    storage, release = Storage(), load_release(root, Storage())
    with open_catalog(root) as con:
        assert run_query(con, "SELECT * FROM tracks").read_all().num_rows == 0
    first = write_tracks(release, storage, [track()], {"track_objects": 60})
    again = write_tracks(release, storage, [track("other")], {"track_objects": 60})
    assert again == first == track_uris(release, storage)
    assert len(list(Path(root).rglob("tracks/*"))) == 2, "a record and its table, no more"
    with open_catalog(root) as con:
        rows = run_query(con, "SELECT * FROM tracks ORDER BY step").read_all().to_pylist()
    assert [(row["track"], row["step"], row["value"], row["num_objects"]) for row in rows] == [
        ("h_alpha_ew", 0, 0.0, 57), ("h_alpha_ew", 1, 0.5, 57), ("h_alpha_ew", 2, 1.0, 57),
    ]  # fmt: skip
    assert len(rows[0]["wave"]) == len(rows[0]["flux"]) == len(WAVE_OBS)
    np.testing.assert_allclose(rows[2]["latent"], 1.0)


def test_a_chart_keeps_the_line_and_every_third_pixel_of_what_it_smooths():
    with style():
        figure = track_figure(track(), np.zeros((5, 2)), np.zeros((3, 2)))
        _, whole, zoom, *_ = figure.axes
    wave, flux = whole.lines[-1].get_data()
    assert len(WAVE_OBS) / 3.1 < len(wave) < len(WAVE_OBS) / 2.9
    assert wave[np.argmax(flux)] == pytest.approx(7200 / 1.1, abs=3)
    assert np.max(flux) == pytest.approx(2, abs=0.03)
    inside = (WAVE_OBS / 1.1 >= 6300) & (WAVE_OBS / 1.1 <= 6800)
    assert len(zoom.lines[0].get_xdata()) == inside.sum(), "where the line is looked at all pixels are drawn"


def test_tracks_of_other_settings_take_the_place_of_those_before(root):
    storage, release = Storage(), load_release(root, Storage())
    first = write_tracks(release, storage, [track()], {"track_objects": 60})
    other = write_tracks(release, storage, [track("h_beta_width")], {"track_objects": 90})
    assert first != other == track_uris(release, storage)
    with open_catalog(root) as con:
        names = run_query(con, "SELECT DISTINCT track FROM tracks").read_all()["track"].to_pylist()
    assert names == ["h_beta_width"]
    assert write_tracks(release, storage, [track()], {"track_objects": 60}) != other, (
        "the last that was asked for"
    )


def test_records_of_two_at_once_are_both_kept(root, monkeypatch):
    storage, release = Storage(), load_release(root, Storage())
    write_tracks(release, storage, [track()], {"track_objects": 60})
    monkeypatch.setattr("catalogs.tracks._records", lambda *_: [])  # it knows of no other
    write_tracks(release, storage, [track("h_beta_width")], {"track_objects": 90})
    monkeypatch.undo()
    with open_catalog(root) as con:
        names = run_query(con, "SELECT DISTINCT track FROM tracks").read_all()["track"].to_pylist()
    assert names == ["h_beta_width"]


def test_a_model_whose_decoder_needs_more_leaves_a_note(root, released):
    reader = a_reader(released, [], error=True)
    without = dataclasses.replace(reader, spec=cast(Any, SimpleNamespace(decode=None)))
    found = tracks.find(without, Place(uri=root), read_manifest(root, Storage()), 1000)
    assert found.tracks == []
    assert "needs more than a place in latent space" in found.notes[0]


def test_a_damaged_record_is_told(root):
    release = load_release(root, Storage())
    Storage().put(f"{root}/{release.manifest.path}/tracks/000001.json", b"[]")
    with pytest.raises(CommitError, match="not the record of tracks"):
        track_uris(release, Storage())


def test_the_report_shows_tracks_and_what_latent_space_knows(root, tmp_path):
    found = Evidence(
        [track()], {"H α equivalent width [Angstrom]": Regression(57, 0.31, 0.42)}, ["No track of stars."]
    )
    html = build_report(root, str(tmp_path / "report.html"), found=found)
    section = html[html.index('<section id="latent">') : html.index('<section id="top">')]
    assert section.count("data:image/png") == 2
    assert "57 objects at redshift about 0.1" in section
    assert "<td>H α equivalent width [Angstrom]</td>" in section
    assert "0.31" in section
    assert "No track of stars." in section
    assert re.search(r"<td>class</td><td class=\"n\">3</td>", section)
    assert "redshift</td>" in section
    assert "GALAXY" in section


def spectra(rows: pa.Table, ew: np.ndarray) -> pa.Table:
    """Rows with H alpha of given equivalent widths [Angstrom, rest] on a flat continuum."""
    z = rows["z"].to_numpy()
    rest = WAVE_OBS / (1 + z[:, None])
    profile = np.exp(-0.5 * ((rest - H_ALPHA.centre) / 3) ** 2) / (3 * np.sqrt(2 * np.pi))
    flux = (1 + ew[:, None] * profile).astype(np.float32)
    table = rows.append_column("flux", list_array(flux))
    ivar = np.ones_like(flux)
    ivar[:, -UNSEEN:] = 0
    return table.append_column("ivar", list_array(ivar))


def a_reader(table: pa.Table, calls: list[np.ndarray], error: bool = False) -> Reader:
    def read(unit: Unit) -> UnitTable:
        if error:
            raise SourceError("gone")
        return UnitTable(table, rejected_table([]), table.num_rows)

    def decode(settings: Any, module: Any, latent: np.ndarray) -> np.ndarray:
        calls.append(latent)
        return np.repeat(latent[:, :1], len(WAVE_OBS), axis=1)

    spec = SimpleNamespace(decode=decode)
    source = SimpleNamespace(read=read)
    return Reader(cast(Any, source), SpectrumPrep(), (), SPEC, cast(Any, spec), None, cast(Any, None))


@pytest.fixture
def released(root, monkeypatch) -> pa.Table:
    """Spectra whose H alpha grows with the first latent; galaxies at redshift 0.1."""
    unit = Unit("unit-0", (FileRef("/release/coadd.fits", 1, "0"),))
    monkeypatch.setattr(gallery, "units_of", lambda *_: [unit])
    rows = make_rows(NUM_ROWS)
    latent = np.array(rows["latent_mean"].to_pylist())
    z = np.where(np.array(rows["spectype"].to_pylist()) == "GALAXY", 0.1, rows["z"].to_numpy())
    rows = rows.set_column(rows.schema.get_field_index("z"), "z", pa.array(z))
    rows = rows.set_column(
        rows.schema.get_field_index("snr"), "snr", pa.array(np.full(NUM_ROWS, 5, np.float32))
    )
    return spectra(rows, 20 * np.exp(latent[:, 0]))


def test_a_track_goes_where_the_line_grows(root, released):
    calls: list[np.ndarray] = []
    found = tracks.find(a_reader(released, calls), Place(uri=root), read_manifest(root, Storage()), 1000)
    by_name = {one.name: one for one in found.tracks}
    one = by_name["h_alpha_ew"]
    galaxies = int((np.array(released["spectype"].to_pylist()) == "GALAXY").sum())
    assert one.num_objects == galaxies
    assert one.redshift == pytest.approx(0.1, abs=0.08)
    assert (np.diff(one.latent[:, 0]) > 0).all()
    np.testing.assert_allclose(np.abs(one.latent[:, 1:]).max(), 0, atol=0.5)
    np.testing.assert_allclose(one.value, 20 * np.exp(one.latent[:, 0]), rtol=0.25)
    np.testing.assert_allclose(one.flux[:, 0], one.latent[:, 0], rtol=1e-4)  # decoding is linear here
    assert np.isnan(one.flux[:, -UNSEEN:]).all(), "nobody has data there: the decoder would only guess"
    assert np.isfinite(one.flux[:, :-UNSEEN]).all()
    assert found.regressions["H α + [N II] equivalent width [Angstrom]"].neighbours > 0.5
    assert any("broad H β" in note for note in found.notes)
    tracks.store(Place(uri=root), read_manifest(root, Storage()), found, {})
    with open_catalog(root) as con:
        names = run_query(con, "SELECT DISTINCT track FROM tracks").read_all()["track"].to_pylist()
    assert set(names) == set(by_name)


def test_a_release_that_is_gone_leaves_a_note(root, released):
    found = tracks.find(
        a_reader(released, [], error=True), Place(uri=root), read_manifest(root, Storage()), 1000
    )
    assert (found.tracks, found.notes) == ([], ["No spectrum could be read again, so there are no tracks."])


def test_nothing_is_read_where_no_spectra_are_asked_for(root, released):
    found = tracks.find(
        a_reader(released, [], error=True), Place(uri=root), read_manifest(root, Storage()), 0
    )
    assert found == Evidence()
