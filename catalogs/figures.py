"""Figures of the report as inline SVG or base64 PNG. Agg only: no display, no global state.

Colours tell apart for the colour-blind (Okabe & Ito 2008); scores use viridis, which also prints in grey.
"""

import base64
from contextlib import AbstractContextManager
from io import BytesIO, StringIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import LogFormatter, LogFormatterMathtext

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"

CLASS_COLOURS = {"GALAXY": BLUE, "QSO": VERMILION, "STAR": GREEN}
"""Redrock's classes; what has none is grey."""

STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes come from data, where a dollar is a dollar
    "svg.hashsalt": "trawl",
    "figure.constrained_layout.use": True,
    "font.sans-serif": ["DejaVu Sans"],
}
"""Matplotlib settings of all figures; used through `style()`, never set globally."""

PNG_DPI = 130


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made."""
    return context(STYLE)


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """Return an empty figure that draws without a display."""
    figure = Figure(figsize=(width_inch, height_inch))
    FigureCanvasAgg(figure)
    return figure


def to_svg(figure: Figure) -> str:
    """Write a figure as an `<svg>` element, the same bytes for the same figure."""
    _plain_ticks(figure)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> str:
    """Write a figure as a `data:` URI of a PNG; for figures with so many points that SVG would be larger."""
    _plain_ticks(figure)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def smooth(flux: np.ndarray, ivar: np.ndarray, width_pixels: int) -> np.ndarray:
    """Compute the running mean weighted by inverse variance, for display.

    Parameters
    ----------
    flux, ivar
        [L]; pixels with ivar = 0 do not count.
    width_pixels
        Full width of the window.

    Returns
    -------
    numpy.ndarray
        [L], NaN where a window holds no usable pixel.
    """
    window = np.ones(width_pixels)
    weight = np.convolve(ivar, window, "same")
    total = np.convolve(np.where(ivar > 0, flux, 0.0) * ivar, window, "same")
    return np.divide(total, weight, out=np.full(flux.shape, np.nan), where=weight > 0)


def _plain_ticks(figure: Figure) -> None:
    """Label logarithmic axes without mathematical notation, which `STYLE` does not interpret."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
