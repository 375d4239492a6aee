import numpy as np
import pyarrow as pa
import pytest

from engine.commit.duplicates import duplicate_rows, first_of_each, key_hashes, shared

BIG = 2**53 + 1


def table(**columns) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def test_first_of_each_key_by_preference():
    rows = table(
        targetid=[1, 2, 1, 1, 2],
        survey=["a", "a", "a", "b", "a"],
        snr=[1.0, None, 3.0, 0.0, 5.0],
    )
    keep = first_of_each(rows, ("targetid", "survey"), ("-snr",))
    np.testing.assert_array_equal(keep, [False, False, True, True, True])


def test_no_key_and_no_rows_keep_all():
    assert first_of_each(table(a=[1, 1]), (), ("a",)).all()
    assert first_of_each(table(a=[1, 2]).slice(0, 0), ("a",), ()).shape == (0,)


def test_neighbouring_big_ids_are_different_keys():
    rows = table(targetid=[BIG, BIG + 1, BIG])
    np.testing.assert_array_equal(first_of_each(rows, ("targetid",), ()).sum(), 2)
    assert len(set(key_hashes(rows, ("targetid",)).tolist())) == 2


def test_hash_depends_on_key_alone_and_on_each_column_of_it():
    rows = table(targetid=[1, 2, 1, 1], survey=["a", "a", "b", "a"], other=[1.0, 2.0, 3.0, 4.0])
    hashes = key_hashes(rows, ("targetid", "survey"))
    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 3
    again = key_hashes(rows.take(pa.array([2, 0])), ("targetid", "survey"))
    np.testing.assert_array_equal(again, hashes[[2, 0]])


def test_shared_hashes_are_found_in_all_ranges():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2**64, 3000, dtype=np.uint64, endpoint=False)
    common = np.concatenate([values[:50], np.array([0, 2**64 - 1, 2**60], np.uint64)])
    parts = [np.sort(np.concatenate([part, common])) for part in (values[100:900], values[900:])]
    np.testing.assert_array_equal(shared(parts), np.sort(common))
    assert shared([]).size == 0
    assert shared([values[:0], np.sort(values)]).size == 0


@pytest.mark.parametrize("columns", [{"targetid": [5]}, {"other": [1.5]}])
def test_rejected_row_has_what_the_row_has(columns):
    (row,) = duplicate_rows(table(**columns), ("k",), ("-p",)).to_pylist()
    assert (row["reason"], row["kind"]) == ("duplicate_key", "fault")
    assert row["targetid"] == columns.get("targetid", [None])[0]
    assert (row["uri"], row["row"]) == ("", None)
