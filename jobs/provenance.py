"""What made a catalogue: configuration, code and packages."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from jobs.config import JobConfig

PACKAGES = ("trawl", "ray", "torch", "numpy", "pyarrow", "astropy", "faiss-cpu", "duckdb")
"""Packages whose version can change a number."""


def provenance(config: JobConfig, **more: Any) -> dict[str, Any]:
    """JSON-able facts for a manifest or a checkpoint. Holds no credentials: the configuration has none."""
    facts = {
        "config": config.model_dump(mode="json"),
        "git_commit": _git_commit(),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }
    return facts | more


def _version(package: str) -> str:
    """Version of a package; empty if it is only code in a working directory, as ours is on some clusters."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Commit of the checkout that runs, with `+` where files were changed; empty outside one."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
