"""Names of lines in the windows that a model found odd."""

import numpy as np
import pyarrow as pa

from engine.schema import column_array, set_column
from engine.spectra.columns import SPECTYPE, Z
from engine.spectra.explain import WINDOW_LINES, NameLines, line_names
from engine.stage import UnitTable, rejected_table

HALPHA, OIII = 6564.61, 5008.24


def names(low: list[float], high: list[float], redshift: float, is_star: bool = False) -> str | None:
    (found,) = line_names(np.array([low]), np.array([high]), np.array([redshift]), np.array([is_star]))
    return found


def test_lines_are_named_at_their_redshift_window_by_window() -> None:
    found = names([HALPHA * 1.3 - 20, 4000.0, np.nan], [HALPHA * 1.3 + 60, 4010.0, np.nan], 0.3)
    assert found == "[N II], H α | - | -"
    assert names([HALPHA - 1], [HALPHA + 1], 0.3) == "-"
    assert names([4955.0], [5010.0], 0.0) == "[O III]"  # both, said once


def test_a_line_at_the_end_of_a_window_is_in_it() -> None:
    assert names([HALPHA], [HALPHA + 5], 0.0) == "H α"
    assert names([HALPHA - 5], [HALPHA], 0.0) == "H α"


def test_stars_have_no_forbidden_lines() -> None:
    assert names([4850.0], [5010.0], 0.0, is_star=True) == "H β"


def test_without_a_redshift_nothing_is_named() -> None:
    assert names([4850.0], [5010.0], np.nan) is None


def stage_and_rows(frame: str) -> tuple[NameLines, UnitTable]:
    stage = NameLines(frame, 2)  # pyright: ignore[reportArgumentType]
    rows = pa.table({"targetid": pa.array([1, 2, 3])})
    values = {
        "window_wave_min": np.array([[OIII * 2 - 5, 5000.0]] * 3, np.float32),
        "window_wave_max": np.array([[OIII * 2 + 5, 5010.0]] * 3, np.float32),
        "z": np.array([1.0, 0.0, np.nan]),
        "spectype": np.array(["GALAXY", "STAR", None], object),
    }
    for column in stage.requires:
        rows = set_column(rows, column, column_array(column, values[column.name]))
    return stage, UnitTable(rows, rejected_table([]), 3)


def test_stage_names_lines_in_the_frame_of_the_windows() -> None:
    stage, unit = stage_and_rows("observed")
    assert stage.open()(unit).rows["window_lines"].to_pylist() == ["[O III] | -", "- | -", None]
    stage, unit = stage_and_rows("rest")
    assert stage.open()(unit).rows["window_lines"].to_pylist() == ["- | [O III]", "- | -", None]


def test_stage_takes_no_rows() -> None:
    stage, unit = stage_and_rows("observed")
    none = stage.open()(UnitTable(unit.rows[:0], unit.rejected, 0))
    assert none.rows.num_rows == 0
    assert none.rows.schema.field("window_lines").type == pa.string()


def test_stage_is_for_models_that_name_windows() -> None:
    stage, _ = stage_and_rows("observed")
    windows = stage.requires[:2]
    assert NameLines.of("observed", windows) == stage
    assert NameLines.of("observed", (Z, SPECTYPE)) is None
    assert stage.provides == (WINDOW_LINES,)
