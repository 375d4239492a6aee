"""Damage FITS files in two thousand ways and read them: what comes out must be rows or rejections with the right reason.

`python -m benchmarks.fuzz_fits [--cases N] [--seed N] [--workers N] [--only N]`: synthetic files of each layout, and
real ones (`../shared/data`) where they are. Each case is read in a child process that is watched for crashes, hangs
and memory. Exit code 1 if there was anything that should not be; `--only` runs one case again.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.faults.corpus import releases
from benchmarks.faults.fuzz import MEMORY_BYTES, TIMEOUT_S, Verdict, make_cases, run


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.fuzz_fits", description=__doc__)
    line.add_argument("--cases", type=int, default=2000)
    line.add_argument("--seed", type=int, default=1)
    line.add_argument("--workers", type=int, default=2, help="child processes that read at the same time")
    line.add_argument(
        "--synthetic", action="store_true", help="without real files, also where there are some"
    )
    line.add_argument(
        "--only", type=int, help="write the damaged file of this case to the working directory, and stop"
    )
    arguments = line.parse_args(argv)
    corpus = releases(real=not arguments.synthetic)
    if arguments.only is not None:
        (case,) = make_cases(corpus, [arguments.only], arguments.seed)
        name = f"case-{case.number}-{case.path.rpartition('/')[2]}"
        with open(name, "wb") as file:
            file.write(case.mutation.data)
        print(f"{name}: {case.release.name}, {case.mutation.kind}")
        return 0
    started = time.monotonic()
    verdicts = run(corpus, arguments.cases, arguments.seed, arguments.workers)
    print(f"{len(verdicts)} cases of {len(corpus)} releases in {time.monotonic() - started:.0f} s\n")
    print("\n".join(table(verdicts)))
    found = [verdict for verdict in verdicts if verdict.problems]
    for one in found:
        print(f"case {one.number}, {one.release}, {one.path}, {one.kind}: {'; '.join(one.problems)}")
    print(f"\n{len(found)} findings; limits: {TIMEOUT_S:.0f} s, {MEMORY_BYTES >> 20} MiB a case")
    return 1 if found else 0


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a mutation."""
    lines = [
        "| damage | cases | only rows | rows and rejected | only rejected | reasons | most MiB | longest s | findings |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for kind in sorted({verdict.kind for verdict in verdicts}):
        mine = [verdict for verdict in verdicts if verdict.kind == kind]
        counts = [
            sum(bool(v.num_rows) == rows and bool(v.reasons) == rejected for v in mine)
            for rows, rejected in ((True, False), (True, True), (False, True))
        ]
        reasons = ", ".join(sorted({reason for v in mine for reason in v.reasons})) or "none"
        peak, longest = max(v.peak for v in mine) >> 20, max(v.seconds for v in mine)
        cells = [
            kind,
            len(mine),
            *counts,
            reasons,
            peak,
            f"{longest:.1f}",
            sum(bool(v.problems) for v in mine),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
