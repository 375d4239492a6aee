import numpy as np
import pytest

from engine.flags import NO_REDSHIFT
from engine.sources.desi_rows import META_COLUMNS, build_rows, find_rows, survey_from_targets
from tests.coadds import BIG_ID, Coadd, make_coadd


def rows(coadd: Coadd, survey: str = "main") -> dict[str, list[object]]:
    return build_rows(
        coadd.fibermap, coadd.exposures, coadd.scores, coadd.redshifts, survey, "dark", "f.fits"
    ).to_pydict()


def test_rows_are_joined_by_targetid_exactly() -> None:
    """A float would hold 2^53 + 1 as 2^53 and 2^53 + 3 as 2^53 + 4."""
    made = rows(make_coadd())
    assert made["targetid"] == [BIG_ID + i for i in range(4)]
    np.testing.assert_allclose(np.array(made["z"], float), [0.1, 0.2, 0.3, 0.4])
    assert made["desi_target"] == [2**60 + i for i in range(4)]
    assert made["flags"] == [0] * 4
    assert made["source_row"] == [0, 1, 2, 3]
    assert set(made) == {column.name for column in META_COLUMNS}


def test_fibre_is_of_the_first_exposure_and_night_of_the_last() -> None:
    made = rows(make_coadd())
    assert made["tileid"] == [100] * 4
    assert made["petal"] == [1] * 4
    assert made["fiber"] == [500, 501, 502, 503]
    assert made["night"] == [20210502] * 4
    assert made["num_exposures"] == [2] * 4
    assert made["exptime"] == [1800.0] * 4
    assert made["tsnr2"][0] == 50.0


def test_exposures_are_counted_where_the_fibermap_does_not_say() -> None:
    coadd = make_coadd()
    del coadd.fibermap["COADD_NUMEXP"], coadd.fibermap["COADD_EXPTIME"]
    coadd.exposures["FIBERSTATUS"][0] = 8
    made = rows(coadd)
    assert made["num_exposures"] == [1, 2, 2, 2]
    assert made["exptime"] == [900.0, 1800.0, 1800.0, 1800.0]


def test_without_exposures_the_fibermap_is_asked() -> None:
    coadd = make_coadd()
    coadd.exposures = {}
    made = rows(coadd)
    assert made["tileid"] == made["night"] == made["fiber"] == [None] * 4
    coadd.fibermap |= {
        "TILEID": np.full(4, 80613, np.int32),
        "FIBER": np.arange(4),
        "PETAL_LOC": np.ones(4, np.int16),
    }
    made = rows(coadd)
    assert (made["tileid"], made["fiber"], made["petal"]) == ([80613] * 4, [0, 1, 2, 3], [1] * 4)


def test_target_without_exposure_has_nulls() -> None:
    coadd = make_coadd()
    coadd.exposures = {name: values[2:] for name, values in coadd.exposures.items()}
    assert rows(coadd)["night"] == [None, 20210502, 20210502, 20210502]


def test_object_without_redshift_has_nulls_and_a_flag() -> None:
    coadd = make_coadd()
    coadd.redshifts = {
        name: values[1:] for name, values in coadd.redshifts.items()
    }  # the last target is gone
    made = rows(coadd)
    assert made["flags"] == [0, 0, 0, NO_REDSHIFT.value]
    assert made["z"][3] is made["spectype"][3] is made["zwarn"][3] is None
    coadd.redshifts = {}
    assert rows(coadd)["flags"] == [NO_REDSHIFT.value] * 4


@pytest.mark.parametrize(
    ("survey", "column"), [("sv3", "SV3_DESI_TARGET"), ("cmx", "CMX_TARGET"), ("odd", "DESI_TARGET")]
)
def test_target_bits_are_those_of_the_survey(survey: str, column: str) -> None:
    coadd = make_coadd()
    coadd.fibermap[column] = np.arange(4, dtype=np.int64)
    assert rows(coadd, survey)["desi_target"] == [0, 1, 2, 3]


def test_survey_is_told_by_the_targeting_column() -> None:
    fibermap = make_coadd().fibermap
    assert survey_from_targets(fibermap) == ""
    fibermap["SV1_DESI_TARGET"] = fibermap["DESI_TARGET"]
    assert survey_from_targets(fibermap) == "sv1"
    fibermap["SV3_DESI_TARGET"] = fibermap["DESI_TARGET"]
    assert survey_from_targets(fibermap) == ""


def test_first_of_equal_targetids_is_found() -> None:
    table = {"TARGETID": np.array([5, 3, 3, 9])}
    assert find_rows(table, np.array([3, 9, 4, 10, -1])).tolist() == [1, 3, -1, -1, -1]
    assert find_rows({}, np.array([3])).tolist() == [-1]
    assert find_rows({"TARGETID": np.empty(0, np.int64)}, np.array([3])).tolist() == [-1]
