"""Two models in one pass over a release against two passes, where reading dominates: the models of the rest frame.

    python -m benchmarks.two_models --folder .bench

Times are from the first unit of work to the published catalogue, without start-up. The catalogues of both ways must
be equal, byte for byte.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.end_to_end import make_release
from benchmarks.small_model import make_checkpoint
from engine.spectra.prepare import SpectrumPrep
from models.spectral_vae_config import PRESETS

REST = SpectrumPrep(frame="rest")


def run(config: Path, release: Path, models: dict[Path, Path]) -> float:
    """Score the release with these checkpoints, each into its catalogue; seconds of work."""
    entries = "".join(
        f'[[models]]\ncheckpoint.uri = "{checkpoint}"\noutput.uri = "{output}"\n'
        for output, checkpoint in models.items()
    )
    config.write_text(f'release.uri = "{release}"\nreport.enabled = false\n{entries}')
    for output in models:
        shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "jobs", "reprocess", str(config), "--json"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    first = told.get("models", [told])[0]
    return first["work_s"] + first["publish_s"]


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
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    release = make_release(folder, arguments.spectra, 500)
    settings = asdict(PRESETS["rest_1000x10"])
    checkpoints = [make_checkpoint(folder / f"rest-{seed}", seed, settings, REST) for seed in (1, 2)]
    config, alone, together = (
        folder / "two.toml", [folder / "alone-1", folder / "alone-2"], [folder / "both-1", folder / "both-2"]
    )  # fmt: skip
    separate = [run(config, release, {output: c}) for output, c in zip(alone, checkpoints, strict=True)]
    both = run(config, release, dict(zip(together, checkpoints, strict=True)))
    equal = all(checksums(a) == checksums(b) for a, b in zip(alone, together, strict=True))
    print(f"first alone {separate[0]:.1f} s, second alone {separate[1]:.1f} s, both in one pass {both:.1f} s")
    print(f"one pass takes {both / sum(separate):.2f} of two; catalogues are equal: {equal}")


if __name__ == "__main__":
    main()
