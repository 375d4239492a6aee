"""One HTML file about samples of a generator beside real images: figures inline, nothing loaded from anywhere."""

# N, M = real and generated images, S = pixels a side

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from catalogs.release import checkpoint_ids
from catalogs.sample_charts import grid_picture, power_chart, property_chart
from catalogs.sample_robustness import Robustness, robustness_chart, robustness_rows
from catalogs.sample_sets import Findings, ImageSet
from engine.commit import Manifest


def sample_report(
    root: str,
    manifest: Manifest,
    real: ImageSet,
    generated: ImageSet,
    softening: float,
    findings: Findings,
) -> str:
    """Write the report of a version.

    Parameters
    ----------
    root, manifest
        The catalogue and its version.
    real, generated
        What is compared.
    softening
        Of asinh, for the pictures [unit of the images].
    findings
        What was measured of them.

    Returns
    -------
    str
        HTML.
    """
    failed = f"{real.num_failed} real and {generated.num_failed} generated ones could not be measured."
    context = {
        "root": root,
        "model": manifest.provenance.get("model", "a generator"),
        "manifest": manifest,
        "checkpoints": checkpoint_ids(manifest.provenance),
        "grid": grid_picture(real.images, generated.images, softening),
        "softening": softening,
        "properties": Markup(property_chart(real.morphology, generated.morphology)),  # noqa: S704 - our own SVG
        "power": Markup(power_chart(real.spectra, generated.spectra)),  # noqa: S704 - our own SVG
        "num_real": len(real.images),
        "num_generated": len(generated.images),
        "failed": failed,
        "found": findings,
        "compared_with": manifest.provenance.get("nearest"),
        "nearest": None
        if findings.nearest is None
        else np.percentile(findings.nearest, [0, 50, 100]).tolist(),
        **_robustness(findings.robustness),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("sample_report.html.j2").render(context)


def _robustness(found: Robustness | None) -> dict[str, Any]:
    """Chart and table of the experiment, nothing without one."""
    if found is None:
        return {"curves": ""}
    return {
        "curves": Markup(robustness_chart(found.errors, found.shifts)),  # noqa: S704 - our own SVG
        "alphas": sorted(alpha for alpha in found.errors if alpha),
        "shifts": robustness_rows(found),
        "num_seeds": len(found.errors[0.0]),
        "options": found.options,
    }
