"""From fragments to a published version: what the rest of the project uses of it."""

from engine.commit.changes import Changes, changes
from engine.commit.fragments import FragmentSink
from engine.commit.manifest import Manifest, Version, current_version, manifest_of, read_manifest, versions
from engine.commit.merge import CatalogConfig, RunAll, run_each
from engine.commit.prune import prune
from engine.commit.publish import publish, publish_id

__all__ = [
    "CatalogConfig",
    "Changes",
    "FragmentSink",
    "Manifest",
    "RunAll",
    "Version",
    "changes",
    "current_version",
    "manifest_of",
    "prune",
    "publish",
    "publish_id",
    "read_manifest",
    "run_each",
    "versions",
]
