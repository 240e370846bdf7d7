"""How does a plot become a file, without a display?"""

from pathlib import Path
from typing import Any

from shortlist.errors import ModelError, install
from shortlist.outputs import Output, output_at, whole

FORMATS = (".png", ".svg", ".pdf")
"""Accepted suffixes of a plot file."""


def plot_output(path: Path | None, *, overwrite: bool = False) -> Output | None:
    """Return the plot file as an output for `outputs.check`; None without a path.

    Errors: ModelError if the extra "plot" is not installed.
    """
    if path is not None:
        new_figure()
    return output_at(path, "file", FORMATS, overwrite=overwrite)


def new_figure(**options: Any) -> Any:
    """Return an empty matplotlib Figure. Errors: ModelError without the extra "plot"."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ModelError(f"plots need matplotlib: {install('plot')}") from error
    return Figure(layout="constrained", **options)


def plain_numbers(axis: Any) -> None:
    """Label the ticks of a logarithmic axis with plain numbers instead of powers of ten."""
    from matplotlib.ticker import (  # noqa: PLC0415
        LogLocator,
        MaxNLocator,
        NullLocator,
        ScalarFormatter,
    )

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else MaxNLocator(6))
    axis.set_minor_locator(NullLocator())
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def write_figure(figure: Any, path: Path, *, overwrite: bool = False) -> None:
    """Write a figure atomically, in the format of the path's suffix."""
    with whole(path, FORMATS, overwrite=overwrite) as made:
        figure.savefig(made, format=path.suffix.removeprefix("."))
