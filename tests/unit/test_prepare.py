import pickle

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from engine.schema import conform, list_array, matrix
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.grid import NUM_PIXELS, WAVE_OBS
from engine.spectra.prepare import PrepareSpectra, SpectrumPrep, prepare
from engine.stage import UnitTable, check, rejected_table, run_local

REST = SpectrumPrep(frame="rest")


def unit_table(redshifts: list[float | None]) -> UnitTable:
    num = len(redshifts)
    flux = np.random.default_rng(0).normal(3, 0.1, (num, NUM_PIXELS)).astype(np.float32)
    table = pa.table(
        {
            "targetid": pa.array(np.arange(num, dtype=np.int64) + 2**60),
            "survey": pa.array(["main"] * num),
            "program": pa.array(["dark"] * num),
            "source_uri": pa.array(["f"] * num),
            "source_row": pa.array(np.arange(num, dtype=np.int32)),
            "z": pa.array(redshifts, pa.float64()),
            "flags": pa.array(np.full(num, 8, np.int32)),
            "flux": list_array(flux),
            "ivar": list_array(np.full((num, NUM_PIXELS), 100, np.float32)),
        }
    )
    return UnitTable(table, rejected_table([]), num)


@pytest.mark.parametrize("config", [SpectrumPrep(), REST, SpectrumPrep(frame="rest", num_rest_pixels=64)])
def test_stage_gives_what_it_declares(config: SpectrumPrep) -> None:
    stage = PrepareSpectra(config)
    columns = check([stage], SPECTRUM_COLUMNS)
    done = run_local([pickle.loads(pickle.dumps(stage))], unit_table([0.1, 0.5]))
    made = {column.name for column in stage.provides}
    out = conform(done.rows, [column for column in columns if column.name in made])
    assert matrix(out, "flux").shape == (2, config.num_pixels) == (2, config.wave.size)
    assert out["flags"].to_pylist() == [8, 8]  # bits that were set stay
    assert np.median(matrix(out, "flux"), axis=1) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("config", [REST, SpectrumPrep(need_redshift=True)])
def test_rows_without_redshift_are_rejected_where_it_is_used(config: SpectrumPrep) -> None:
    table = unit_table([0.1, None, np.nan, -1.0, 0.2])
    rest = run_local([PrepareSpectra(config)], table)
    assert rest.rows["targetid"].to_pylist() == [2**60, 2**60 + 4]
    assert rest.rejected["reason"].to_pylist() == ["no_redshift"] * 3
    assert rest.rejected["targetid"].to_pylist() == [2**60 + 1, 2**60 + 2, 2**60 + 3]
    assert run_local([PrepareSpectra()], table).rows.num_rows == 5


def test_spectrum_outside_the_rest_grid_is_rejected() -> None:
    done = run_local([PrepareSpectra(REST)], unit_table([0.1, 7.0, None]))
    assert sorted(done.rejected["reason"].to_pylist()) == ["no_redshift", "no_usable_pixel"]
    assert "2700-7000" in done.rejected["detail"].to_pylist()[1]


def test_no_rows_and_twice_the_same() -> None:
    stage = PrepareSpectra(REST)
    assert run_local([stage], unit_table([])).rows.num_rows == 0
    table, function = unit_table([0.3]), stage.open()
    assert function(table).rows.equals(function(table).rows)


def test_rest_frame_moves_a_line_to_its_place() -> None:
    z = np.array([0.0, 0.25])
    line = 5008.24
    flux = 1 + 50 * np.exp(-0.5 * ((WAVE_OBS - line * (1 + z[:, None])) / 4) ** 2)
    done = prepare(flux.astype(np.float32), np.full_like(flux, 100, np.float32), z, REST)
    assert REST.wave[done.spectra.flux.argmax(axis=1)] == pytest.approx([line, line], abs=3)


def test_rest_frame_without_redshifts_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="redshifts"):
        prepare(np.ones((1, NUM_PIXELS)), np.ones((1, NUM_PIXELS)), None, REST)


def test_range_must_be_a_range() -> None:
    with pytest.raises(ValidationError, match="below"):
        SpectrumPrep(rest_wave_min_angstrom=8000)
