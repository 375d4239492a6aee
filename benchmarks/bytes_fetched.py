"""Bytes fetched from S3 against bytes used, and against the size of the files, for DESI coadds.

    python -m benchmarks.bytes_fetched [--rows 50 200 500]

Writes synthetic coadds in the release layout (with RESOLUTION, MASK tile-compressed as in recent
productions) to a local S3 server and reads them as a job does. Used are the headers passed and the data of
the HDUs wanted; what is fetched beyond it is look-ahead. Files of the public release have about 500 rows.
"""

import argparse
import logging
import os
import uuid

from botocore.session import get_session
from moto.server import ThreadedMotoServer

from engine.sources.desi import DesiSource
from engine.storage import Storage, StorageOptions
from engine.synthetic.desi import SynthesizeConfig, write_task

TARGET_RATIO = 1.1


def main() -> None:
    """Serve, write, read, print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 200, 500])
    args = parser.parse_args()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = StorageOptions(endpoint_url=f"http://{host}:{port}")
        results = [measure(rows, options) for rows in args.rows]
    finally:
        server.stop()
    print(
        f"{'rows':>6}{'files MB':>10}{'used MB':>10}{'fetched MB':>12}{'requests':>10}{'fetched/used':>14}{'of file':>9}"
    )
    for rows, size, used, fetched, requests in results:
        print(
            f"{rows:6}{size / 1e6:10.1f}{used / 1e6:10.2f}{fetched / 1e6:12.2f}{requests:10}"
            f"{fetched / used:14.3f}{fetched / size:9.1%}"
        )
    worst = max(fetched / used for *_, used, fetched, _ in results)
    print(
        f"target: <= {TARGET_RATIO}: {'reached' if worst <= TARGET_RATIO else 'MISSED'} ({worst:.3f} at worst)"
    )


def measure(rows: int, options: StorageOptions) -> tuple[int, int, float, float, int]:
    """Write one coadd with its redrock file, read it; sizes in bytes."""
    bucket = f"trawl-{uuid.uuid4().hex[:12]}"
    client = get_session().create_client("s3", endpoint_url=options.endpoint_url)
    client.create_bucket(Bucket=bucket)
    client.close()
    config = SynthesizeConfig(
        num_spectra=rows, spectra_per_file=rows, with_resolution=True, compress_mask=True
    )
    write_task(config, 0, f"s3://{bucket}/release", Storage(options))
    source = DesiSource(f"s3://{bucket}/release", options)
    (unit,) = source.plan()
    before = source._storage.num_requests
    table = source.read(unit)
    if table.rows_in != rows:
        raise SystemExit(f"read {table.rows_in} of {rows} objects: {table.rejected.to_pylist()[:2]}")
    requests = source._storage.num_requests - before
    return rows, unit.num_bytes, table.stats["bytes_used"], table.stats["bytes_fetched"], requests


if __name__ == "__main__":
    main()
