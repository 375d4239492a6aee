"""What a user of mosaics sees when files, settings or the catalogue are wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from engine.errors import ConfigError
from engine.flags import MISSING_BAND
from engine.images.bands import BANDS
from engine.schema import matrix
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import PsfConfig
from tests.mosaics import NJY, Field, config, cubes, dja, positions, psfs, read


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return Field(tmp_path / "mosaics").write()


def test_absent_band_is_a_flag_or_a_rejection(field: Field) -> None:
    field.path("f444w").unlink()
    uri = positions(np.array([50.0, 60]), np.array([50.0, 250]), field)
    table = read(field, config(uri))
    assert table.rows["flags"].to_pylist() == [MISSING_BAND.value] * 2
    assert matrix(table.rows, "resampling")[0].tolist() == [0, 0, 0, 0, 0, -9]
    assert "f356w" in table.rows["source_uri"][0].as_py()
    strict = read(field, config(uri, require_all_bands=True))
    assert strict.rejected["reason"].to_pylist() == ["missing_band"] * 2
    assert strict.rejected["object_id"].to_pylist() == [1000, 1001]


def _truncate(field: Field) -> None:
    path = field.path("f277w")
    path.write_bytes(path.read_bytes()[:600_000])


def _truncate_reference(field: Field) -> None:
    path = field.path("f444w")
    path.write_bytes(path.read_bytes()[:300_000])


def _drop_sci(field: Field) -> None:
    with fits.open(field.path("f277w")) as hdus:
        data = fits.HDUList([hdus[0].copy(), hdus["WHT"].copy()])
        data.writeto(field.path("f277w"), overwrite=True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_truncate, "truncated_file"),
        (_truncate_reference, "truncated_file"),
        (_drop_sci, "unsupported_layout"),
        (lambda f: f.write(("f277w",), CTYPE1=None, CTYPE2=None), "bad_wcs"),
        (lambda f: f.write(("f277w",), CRVAL1=10.0), "bad_wcs"),
        (lambda f: f.write(("f444w",), CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN"), "bad_wcs"),
        (lambda f: f.write(("f277w",), BUNIT=None), "bad_unit"),
        (lambda f: f.write(("f277w",), BUNIT="DN/s"), "bad_unit"),
        (lambda f: f.write(("f277w",), PIXAR_SR=1.0e-13), "bad_unit"),
        (lambda f: f.path("f277w").write_text("no"), "not_fits"),
    ],
)
def test_fault_of_a_file_rejects_its_sources(field: Field, spoil: Callable, reason: str) -> None:
    spoil(field)
    table = read(field, config(positions(np.array([50.0, 60, 70]), np.array([50.0, 100, 250]), field)))
    assert table.rejected["reason"].to_pylist() == [reason] * 3
    assert sorted(table.rejected["object_id"].to_pylist()) == [1000, 1001, 1002]
    assert set(table.rejected["field"].to_pylist()) == {"nircam1"}
    detected = read(field, config(detection_bands=("f115w",)))
    assert set(detected.rejected["reason"].to_pylist()) == {reason}


def test_gzipped_mosaics_are_said_to_be_slower(field: Field, caplog: pytest.LogCaptureFixture) -> None:
    list(NircamSource(str(field.folder)).plan())
    assert not caplog.records
    dja(field, packed=True)
    list(NircamSource(str(field.folder)).plan())
    assert "12 gzipped mosaics" in caplog.text
    assert "slower" in caplog.text


def test_bands_of_different_units_come_out_in_one(field: Field) -> None:
    field.write(("f200w",), BUNIT="10.0*nanoJansky")
    field.write(("f356w",), BUNIT="uJy")
    table = read(field, config(positions(np.array([200.0]), np.array([150.0]), field)))
    factors = [NJY, NJY, 10, NJY, 1000, NJY]
    assert matrix(table.rows, "unit_factor")[0].tolist() == pytest.approx(factors)
    for b, (band, factor) in enumerate(zip(BANDS, factors, strict=True)):
        wanted = factor * field.images[band][138:162, 188:212]
        np.testing.assert_allclose(cubes(table, "science")[0, b], wanted, rtol=1e-5)
        assert cubes(table, "error")[0, b] == pytest.approx(factor, rel=1e-6)


def test_unit_of_the_settings_is_for_files_that_do_not_say(field: Field) -> None:
    field.write(("f277w",), BUNIT=None)
    uri = positions(np.array([200.0]), np.array([150.0]), field)
    told = read(field, config(uri)).rejected["detail"][0].as_py()
    assert "_f277w_" in told
    assert "BUNIT is absent" in told
    assert "give it as `unit`" in told
    assert matrix(read(field, config(uri, unit="nJy")).rows, "unit_factor")[0, 3] == 1


def test_psf_that_is_not_there_is_told(field: Field, tmp_path: Path) -> None:
    uri = positions(np.array([200.0]), np.array([150.0]), field)
    (Path(psfs(tmp_path / "psf")) / "psf_f277w.fits").unlink()
    with pytest.raises(ConfigError, match="no single PSF of f277w"):
        read(field, config(uri, psf=PsfConfig(uri=str(tmp_path / "psf"), kernel_size=31)))


def test_psf_of_another_pixel_scale_is_told_with_both_scales(field: Field, tmp_path: Path) -> None:
    uri = positions(np.array([200.0]), np.array([150.0]), field)
    with pytest.raises(ConfigError, match=r"0\.063 arcsec for the PSF; expected 0\.03 arcsec"):
        read(field, config(uri, psf=PsfConfig(uri=psfs(tmp_path / "psf", 0.063), kernel_size=31)))


def test_catalogue_without_positions_names_its_columns(field: Field) -> None:
    path = field.folder / "cat.csv"
    path.write_text("NUMBER,flux\n1,2\n")
    with pytest.raises(ConfigError, match="got NUMBER, flux"):
        list(NircamSource(str(field.folder), config=config(str(path))).plan())
