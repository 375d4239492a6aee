from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from engine.flags import LOW_COVERAGE, NO_REDSHIFT
from engine.schema import matrix
from engine.sources.sdss import SdssSource, SpectrumId, parse_name
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.grid import WAVE_OBS
from engine.stage import UnitTable

LOGLAM = 3.5530 + 1e-4 * np.arange(4610)


class Spectrum:
    """A BOSS file in memory, flux 3 and ivar 4 everywhere."""

    def __init__(self) -> None:
        num = LOGLAM.size
        self.coadd = {
            "flux": np.full(num, 3, np.float32),
            "loglam": LOGLAM.astype(np.float32),
            "ivar": np.full(num, 4, np.float32),
            "and_mask": np.zeros(num, np.int32),
        }
        self.object = {
            "PLUG_RA": [150.0], "PLUG_DEC": [2.0], "CLASS": ["QSO"], "SUBCLASS": ["BROADLINE"], "Z": [2.5],
            "Z_ERR": [1e-4], "ZWARNING": np.array([4], np.int32), "RCHI2DIFF": [0.5], "DOF": [4000],
        }  # fmt: skip
        self.header = {"NEXP": 8, "EXPTIME": 3600.5}

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        hdus = [
            fits.PrimaryHDU(header=fits.Header(self.header)),
            fits.BinTableHDU(Table(self.coadd), name="COADD"),
        ]
        hdus += [fits.BinTableHDU(Table(self.object), name="SPALL")] if self.object else []
        fits.HDUList(hdus).writeto(path)
        return path


def read(root: Path) -> UnitTable:
    source = SdssSource(str(root))
    (unit,) = source.plan()
    table = source.read(unit)
    assert table.rows_in == table.rows.num_rows + table.rejected.num_rows == len(unit.files)
    assert tuple(table.rows.column_names) == tuple(column.name for column in SPECTRUM_COLUMNS)
    return table


def test_plate_is_a_unit_and_other_files_are_not_looked_at(tmp_path: Path) -> None:
    for name in ("7102/spec-7102-56666-0124.fits", "7102/spec-7102-56666-0082.fits", "7102/spec-7102-56670-0082.fits",
                 "7102/readme.txt", "10000/spec-10000-57346-0002.fits", "spPlate-7102-56666.fits"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    units = list(SdssSource(str(tmp_path)).plan())
    assert [(unit.key, len(unit.files)) for unit in units] == [
        ("plate-10000-57346", 1),
        ("plate-7102-56666", 2),
        ("plate-7102-56670", 1),
    ]


@pytest.mark.parametrize(
    "named", [SpectrumId(266, 51602, 1), SpectrumId(7102, 56666, 82), SpectrumId(15999, 65535, 1000)]
)
def test_targetid_holds_plate_mjd_and_fibre(named: SpectrumId) -> None:
    assert divmod(named.targetid, 2**28)[0] == named.plate
    assert divmod(named.targetid % 2**28, 2**14) == (named.mjd - 50_000, named.fiber)
    assert 0 < named.targetid < 2**63


def test_names_that_are_not_spectra() -> None:
    assert parse_name("/a/spec-7102-56666-0082.fits") == SpectrumId(7102, 56666, 82)
    assert parse_name("/a/spec-7102-56666-0082.txt") is None
    assert parse_name("/a/spectra-7102-56666-0082.fits") is None


def test_spectrum_lies_on_the_common_grid(tmp_path: Path) -> None:
    Spectrum().write(tmp_path / "spec-7102-56666-0082.fits")
    table = read(tmp_path)
    row = table.rows.drop_columns(["flux", "ivar"]).to_pylist()[0]
    np.testing.assert_allclose(matrix(table.rows, "flux"), 3, rtol=1e-5)
    assert (row["survey"], row["program"], row["spectype"], row["subtype"]) == (
        "sdss",
        "boss",
        "QSO",
        "BROADLINE",
    )
    assert (row["z"], row["zwarn"], row["deltachi2"]) == (2.5, 4, 2000.0)
    assert (row["ra"], row["dec"], row["tileid"], row["fiber"], row["petal"]) == (150.0, 2.0, 7102, 82, 1)
    assert (row["num_exposures"], row["flags"], row["night"]) == (8, 0, None)
    assert (row["num_good_pixels"], row["targetid"]) == (WAVE_OBS.size, SpectrumId(7102, 56666, 82).targetid)
    assert row["snr"] == pytest.approx(6.0, rel=0.2)


def test_pixels_beyond_the_spectrum_and_masked_ones_have_no_weight(tmp_path: Path) -> None:
    spectrum = Spectrum()
    spectrum.coadd = {name: values[1000:2500] for name, values in spectrum.coadd.items()}
    spectrum.coadd["and_mask"][500:520] = 1 << 23
    spectrum.coadd["flux"][700] = np.nan
    spectrum.write(tmp_path / "spec-266-51602-0400.fits".replace("266", "0266"))
    table = read(tmp_path)
    ivar, flux = matrix(table.rows, "ivar")[0], matrix(table.rows, "flux")[0]
    wave, at = WAVE_OBS, 10**LOGLAM
    np.testing.assert_array_equal(ivar[(wave < at[1000] - 1) | (wave > at[2499] + 1)], 0)
    assert ivar[(wave > at[1502]) & (wave < at[1517])].max() == 0
    assert ivar[np.abs(wave - at[1700]).argmin()] == 0
    np.testing.assert_allclose(flux[ivar > 0], 3, rtol=1e-5)
    row = table.rows.select(["flags", "program", "petal"]).to_pylist()[0]
    assert row == {"flags": LOW_COVERAGE.value, "program": "legacy", "petal": 2}


def change(name: str, value: object) -> Callable[[Spectrum], None]:
    def apply(spectrum: Spectrum) -> None:
        target = spectrum.coadd if name in spectrum.coadd else spectrum.object
        target[name][:] = value if name in spectrum.coadd else [value]

    return apply


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (change("ivar", 0), "no_usable_pixel"),
        (change("flux", np.nan), "no_usable_pixel"),
        (change("loglam", 3.6), "wrong_wavelength_grid"),
        (change("PLUG_RA", np.nan), "bad_position"),
        (change("PLUG_DEC", -90.5), "bad_position"),
        (lambda spectrum: spectrum.coadd.pop("loglam"), "unsupported_layout"),
        (lambda spectrum: spectrum.object.clear(), "bad_position"),
    ],
)
def test_broken_spectrum_is_rejected_and_the_others_stay(
    tmp_path: Path, breaks: Callable[[Spectrum], None], reason: str
) -> None:
    broken = Spectrum()
    breaks(broken)
    broken.write(tmp_path / "spec-7102-56666-0082.fits")
    Spectrum().write(tmp_path / "spec-7102-56666-0083.fits")
    table = read(tmp_path)
    assert table.rejected["reason"].to_pylist() == [reason]
    assert table.rejected["targetid"].to_pylist() == [SpectrumId(7102, 56666, 82).targetid]
    assert table.rows["fiber"].to_pylist() == [83]


@pytest.mark.parametrize(("content", "reason"), [(b"", "truncated_file"), (b"not FITS" * 900, "not_fits")])
def test_file_that_is_not_fits_is_rejected(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "spec-7102-56666-0082.fits").write_bytes(content)
    assert read(tmp_path).rejected["reason"].to_pylist() == [reason]


def test_position_from_the_header_is_enough(tmp_path: Path) -> None:
    spectrum = Spectrum()
    spectrum.object, spectrum.header = {}, {"PLUG_RA": 150.0, "PLUG_DEC": 2.0}
    spectrum.write(tmp_path / "spec-7102-56666-0082.fits")
    row = read(tmp_path).rows.select(["ra", "z", "flags", "num_exposures"]).to_pylist()[0]
    assert row == {"ra": 150.0, "z": None, "flags": NO_REDSHIFT.value, "num_exposures": None}
