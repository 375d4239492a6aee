from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.schema import list_array, to_arrays
from engine.storage import Storage
from engine.train.batches import (
    Splitter,
    read_tables,
    sequential_batches,
    shuffled_batches,
)

COLUMNS = ["flux", "row"]


def make_table(num: int, length: int = 3) -> pa.Table:
    row = np.arange(num)
    flux = np.repeat(row[:, None], length, 1).astype(np.float32)
    rng = np.random.default_rng(1)
    return pa.table({"flux": list_array(flux), "row": row, "split_hash": rng.random(num)})


def cut(table: pa.Table, *sizes: int) -> list[pa.Table]:
    edges = np.cumsum([0, *sizes])
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def rows_of(tables, **kwargs) -> list[list[int]]:
    arguments = {"batch_rows": 8, "buffer_rows": 32, "seed": 3, "epoch": 0} | kwargs
    return [batch["row"].tolist() for batch in shuffled_batches(tables, COLUMNS, **arguments)]


def test_shuffled_batches_hold_every_row_once_but_the_remainder():
    batches = rows_of([make_table(101)])
    assert [len(batch) for batch in batches] == [8] * 12
    seen = list(chain(*batches))
    assert len(set(seen)) == 96
    assert seen != sorted(seen)


def test_columns_of_a_row_stay_together():
    for batch in shuffled_batches([make_table(64)], COLUMNS, 8, 16, 0, 0):
        assert np.array_equal(batch["flux"][:, 1], batch["row"])


def test_batches_do_not_depend_on_how_the_stream_is_cut():
    table = make_table(100)
    assert rows_of([table]) == rows_of(cut(table, 1, 0, 50, 7, 42))


def test_batches_depend_on_seed_and_epoch_only():
    tables = [make_table(100)]
    assert rows_of(tables) == rows_of(tables)
    assert rows_of(tables) != rows_of(tables, epoch=1)
    assert rows_of(tables) != rows_of(tables, seed=4)


def test_rows_leave_the_buffer_far_from_where_they_entered():
    batches = rows_of([make_table(2000)], buffer_rows=256)
    late = np.concatenate([np.array(b) for b in batches[100:]])
    assert late.min() < 100 * 8 - 256


def test_a_buffer_smaller_than_a_batch_still_gives_whole_batches():
    assert [len(b) for b in rows_of([make_table(20)], buffer_rows=1)] == [8, 8]


@pytest.mark.parametrize("tables", [[], [make_table(0)], [make_table(7)]])
def test_too_few_rows_give_no_batch(tables):
    assert rows_of(tables) == []


def test_sequential_batches_keep_order_and_the_remainder():
    table = make_table(21)
    for tables in ([table], cut(table, 3, 0, 15, 3)):
        batches = list(sequential_batches(tables, COLUMNS, 8))
        assert [len(b["row"]) for b in batches] == [8, 8, 5]
        assert np.concatenate([b["row"] for b in batches]).tolist() == list(range(21))
        assert batches[0]["flux"].shape == (8, 3)


def test_splitter_divides_by_hash_and_keeps_what_is_monitored():
    table = make_table(1000)
    hashes = table["split_hash"].to_numpy()
    splitter = Splitter(0.2, 0.05)
    training = pa.concat_tables(splitter.training_rows(cut(table, 400, 600)))
    monitored = pa.concat_tables(splitter.monitored)
    assert training["row"].to_numpy().tolist() == np.flatnonzero(hashes >= 0.2).tolist()
    assert monitored["row"].to_numpy().tolist() == np.flatnonzero(hashes < 0.05).tolist()
    assert training.column_names == ["flux", "row"]


def test_monitored_rows_never_train():
    assert Splitter(0.1, 0.5).monitored_fraction == 0.1


def test_nulls_become_nan_or_none_and_integers_stay_exact():
    big = (1 << 53) + 1
    table = pa.table(
        {"z": [1.5, None], "spectype": ["QSO", None], "night": [big, None], "targetid": [big, -1]}
    )
    arrays = to_arrays(table, table.column_names)
    assert np.isnan(arrays["z"][1])
    assert arrays["spectype"].tolist() == ["QSO", None]
    assert arrays["night"].tolist() == [big, None]
    assert arrays["targetid"].dtype == np.int64
    assert arrays["targetid"][0] == big


def test_parquet_files_are_read_in_order_in_bounded_pieces(tmp_path):
    uris = []
    for index, part in enumerate(cut(make_table(50), 20, 30)):
        uris.append(str(tmp_path / f"{index}.parquet"))
        pq.write_table(part, uris[-1])
    tables = list(read_tables(uris, COLUMNS, Storage(), rows_per_table=16))
    assert max(t.num_rows for t in tables) <= 16
    assert pa.concat_tables(tables)["row"].to_numpy().tolist() == list(range(50))
