"""Two models in one pass over a release against two passes, where reading dominates: the models of the rest frame.

    python -m benchmarks.two_models --folder .bench [--s3]

Work is from the first unit to the last, without start-up; publishing is twice the same either way, and told apart. The
catalogues of both ways must be equal, byte for byte. Both models prepare spectra alike, which one pass does once.
With `--s3` the release is read from a server (moto) on this machine, which shares its cores and is slower than a disk.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from botocore.session import get_session
from moto.server import ThreadedMotoServer

from benchmarks.end_to_end import make_release
from benchmarks.small_model import make_checkpoint
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage, StorageOptions
from models.spectral_vae_config import PRESETS

REST = SpectrumPrep(frame="rest")


class Seconds(NamedTuple):
    """From the first unit to the last, and of publishing all catalogues."""

    work: float
    publish: float

    @property
    def total(self) -> float:
        return self.work + self.publish


def run(config: Path, release: str, endpoint: str, models: dict[Path, Path]) -> Seconds:
    """Score the release with these checkpoints, each into its catalogue."""
    entries = "".join(
        f'[[models]]\ncheckpoint.uri = "{checkpoint}"\noutput.uri = "{output}"\n'
        for output, checkpoint in models.items()
    )
    storage = f'release.storage.endpoint_url = "{endpoint}"\n' if endpoint else ""
    config.write_text(f'release.uri = "{release}"\n{storage}report.enabled = false\n{entries}')
    for output in models:
        shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "jobs", "reprocess", str(config), "--json"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    first = told.get("models", [told])[0]
    return Seconds(first["work_s"], first["publish_s"])


@contextmanager
def served(release: Path) -> Iterator[tuple[str, str]]:
    """Put the files of a release on a server in this process; give its URI and the server's address."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = get_session().create_client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="trawl")
        storage = Storage(StorageOptions(endpoint_url=endpoint))
        for path in sorted(release.rglob("*.fits*")):
            with storage.writing(f"s3://trawl/{path.relative_to(release)}") as target:
                shutil.copyfile(path, target)
        yield "s3://trawl", endpoint
    finally:
        server.stop()


def checksums(root: Path) -> dict[str, str]:
    """Name and checksum of the data files of the newest version."""
    record = json.loads(max((root / "versions").glob("*.json")).read_text())
    manifest = json.loads((root / record["manifest"]).read_text())
    return {Path(f["path"]).name: f["sha256"] for f in manifest["files"] if f["role"] == "data"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--spectra", type=int, default=20_000)
    parser.add_argument(
        "--s3", action="store_true", help="read from a server; it holds the release in memory"
    )
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    release = make_release(folder, arguments.spectra, 500)
    settings = asdict(PRESETS["rest_1000x10"])
    checkpoints = [make_checkpoint(folder / f"rest-{seed}", seed, settings, REST) for seed in (1, 2)]
    where = served(release) if arguments.s3 else nullcontext((str(release), ""))
    with where as place:
        separate, both, equal = compare(folder, place, checkpoints)
    for name, seconds in zip(("first alone", "second alone", "one pass"), (*separate, both), strict=True):
        print(f"{name:14}{seconds.work:7.1f} s of work {seconds.publish:6.1f} s of publishing")
    work, total = (sum(getattr(one, name) for one in separate) for name in ("work", "total"))
    print(
        f"one pass takes {both.work / work:.2f} of the work of two, {both.total / total:.2f} with publishing"
    )
    print(f"catalogues are equal: {equal}")


def compare(
    folder: Path, place: tuple[str, str], checkpoints: list[Path]
) -> tuple[list[Seconds], Seconds, bool]:
    """Score with each model alone and with both at once; also tell whether the catalogues are equal."""
    config, alone, together = (
        folder / "two.toml", [folder / "alone-1", folder / "alone-2"], [folder / "both-1", folder / "both-2"]
    )  # fmt: skip
    separate = [run(config, *place, {output: c}) for output, c in zip(alone, checkpoints, strict=True)]
    both = run(config, *place, dict(zip(together, checkpoints, strict=True)))
    equal = all(checksums(a) == checksums(b) for a, b in zip(alone, together, strict=True))
    return separate, both, equal


if __name__ == "__main__":
    main()
