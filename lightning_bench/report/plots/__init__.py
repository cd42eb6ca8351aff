"""Tables to plots; only its modules import matplotlib."""

from typing import Literal, get_args

PlotFormat = Literal["png", "svg", "pdf"]
PLOT_FORMATS: tuple[PlotFormat, ...] = get_args(PlotFormat)
