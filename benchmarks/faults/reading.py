"""Child process that reads what it is told to and says what came of it: `python -m benchmarks.faults.reading`.

One line of JSON a case, in and out. It is a process of its own so that a crash, a hang or a gigabyte too much is
seen from outside.
"""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.flags import REASONS
from engine.schema import arrow_schema
from engine.sources import SOURCES
from engine.sources.base import Source
from engine.stage import REJECTED, UnitTable

ADDRESS_SPACE_BYTES = 3 << 30
"""What a case may reserve beyond what the process has: a bound for the machine's sake, `peak` is what is judged."""


def main() -> None:
    """Answer until nobody asks."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(examine(json.loads(line))), flush=True)


def examine(order: dict[str, Any]) -> dict[str, Any]:
    """Plan and read a folder as one kind of source; tell rows, rejections, and what should not be."""
    kind = SOURCES[order["source"]]
    source = kind(order["folder"], config=kind.config_class.model_validate(order["settings"]))
    _forget_peak()
    before, started = _peak(), time.monotonic()
    try:
        answer = _summary(source, [source.read(unit) for unit in source.plan()])
    except Exception as error:  # noqa: BLE001 - what escapes is what is looked for
        answer = {"problems": [f"escaped: {type(error).__name__}: {error}"[:500]]}
    return answer | {"peak": _peak() - before, "seconds": time.monotonic() - started}


def _summary(source: Source, tables: list[UnitTable]) -> dict[str, Any]:
    problems = [problem for table in tables for problem in _problems(source, table)]
    rejected = [row for table in tables for row in table.rejected.to_pylist()]
    if any("MemoryError" in row["detail"] for row in rejected):
        problems.append("ran into the limit of memory")
    rows = [table.rows.drop(["source_uri"]).combine_chunks() for table in tables]
    told = [{name: row[name] for name in ("uri", "row", "reason", "detail")} for row in rejected]
    return {
        "problems": problems,
        "num_rows": sum(t.rows.num_rows for t in tables),
        "rows": _digest(rows),
        "rejected": told,
    }


def _digest(tables: list[pa.Table]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _problems(source: Source, table: UnitTable) -> list[str]:
    """Promises that a source breaks."""
    objects = len(table.rejected) - table.rejected["row"].null_count
    kept = {
        "columns are not those declared": table.rows.schema.equals(
            arrow_schema(source.columns), check_metadata=True
        ),
        "rejections have other columns": table.rejected.schema.equals(arrow_schema(REJECTED)),
        "rows in are not rows out and rejected": table.rows_in == table.rows.num_rows + objects,
        "a reason is not known": set(table.rejected["reason"].to_pylist()) <= set(REASONS),
        "a rejection has no detail": all(table.rejected["detail"].to_pylist()),
    }
    return [problem for problem, is_kept in kept.items() if not is_kept]


def _peak() -> int:
    """Largest resident size since `_forget_peak` [bytes]."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
