"""What bokeh draws on the page of predictions: the map, the histogram and the tomogram, as one document for BokehJS.

The plots share one source with a row per particle, so that what is selected in one is selected in all. Which rows are
drawn, and in which colours, the page's script decides (interactive.js). It finds the models by the names below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bokeh.models import CDSView, ColumnDataSource
    from bokeh.plotting import figure

MAP, HISTOGRAM = "map", "histogram"  # plots, and the page's elements for them
XY, ZY, XZ = "tomogram-xy", "tomogram-zy", "tomogram-xz"  # plots, and the page's elements for them
SOURCE, CHOSEN = "particles", "chosen-bars"
MAP_FILTER, TOMOGRAM_FILTER = "map-filter", "tomogram-filter"
BARS = 50
WIDE = {"sizing_mode": "stretch_width"}  # as wide as the page's element
GREY, DARK = "#c8ccd0", "#333333"
TOOLS = "pan,wheel_zoom,box_zoom,lasso_select,box_select,tap,reset"
TOOLTIP = """
<div style="width: 300px; font: 13px/1.4 system-ui, sans-serif; color: #222">
  <img src="@picture" width="300" alt="slices across z, y and x" style="display: block">
  <div style="color: #666">slices across z, y, x</div>
  <div><b>@class</b>, score @score{0.000}</div>
  <div>@more</div>
  <div style="overflow-wrap: anywhere; color: #666">@address</div>
</div>
"""


def document(columns: dict[str, list | np.ndarray], scores: np.ndarray, threshold: float, label: str) -> dict:
    """The JSON of the plots' document, the same for the same arguments.

    Args:
        columns: of N particles: x, y on the map; class, score, more, address for the hover; and where they are known
            px, py, pz in the tomogram, nm. The page adds picture, colour and marker.
        scores: (N,); label: what the score is, in words; threshold: below which a particle is unknown.
    """
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource

    source = ColumnDataSource(columns, name=SOURCE)
    count = len(scores)
    for name, value in (("picture", ""), ("colour", GREY), ("marker", "circle")):
        source.data[name] = [value] * count
    made = Document()
    plots = [_map(source, count), _histogram(scores, threshold, label)]
    for plot in plots + (_tomogram(source, count) if "px" in columns else []):
        made.add_root(plot)
    return _renumbered(made.to_json(deferred=False))


def elements(content: dict) -> dict[str, str]:
    """For the plots of a document, id of a model -> id of the page's element in which it is drawn: the plot's name."""
    return {plot["id"]: plot["attributes"]["name"] for plot in content["roots"]}


def edges(scores: np.ndarray) -> np.ndarray:
    """The edges (BARS + 1,) of the histogram's bars, evenly spaced."""
    low, high = float(np.min(scores)), float(np.max(scores))
    return np.linspace(low, high if high > low else low + 1, BARS + 1)


def bars(scores: np.ndarray) -> np.ndarray:
    """The bar, from 0, that each score (N,) is in."""
    return np.clip(np.searchsorted(edges(scores), scores, side="right") - 1, 0, BARS - 1)


def _map(source: ColumnDataSource, count: int) -> figure:
    """Places on the map; axes without numbers, as distances far apart mean little."""
    from bokeh.plotting import figure

    plot = figure(name=MAP, height=640, tools=TOOLS, match_aspect=True, **WIDE)
    plot.axis.visible = False
    plot.grid.visible = False
    plot.outline_line_color = GREY
    plot.toolbar.logo = None
    _scatter(plot, source, ("x", "y"), _view(MAP_FILTER, count))
    return plot


def _tomogram(source: ColumnDataSource, count: int) -> list[figure]:
    """A tomogram seen along z, x and y; the page's script sets ranges and sizes so that scales are equal."""
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    plots, view = [], _view(TOMOGRAM_FILTER, count)
    shared = {"x": Range1d(0, 1), "y": Range1d(0, 1)}  # so that views beside and below one another move together
    for name, across, up in ((XY, "x", "y"), (ZY, "z", "y"), (XZ, "x", "z")):
        ranges = {"x_range": shared.get(across) or Range1d(0, 1), "y_range": shared.get(up) or Range1d(0, 1)}
        plot = figure(name=name, tools=TOOLS, toolbar_location="above", frame_width=300, frame_height=300, **ranges)
        plot.axis.axis_label_text_font_style = "normal"
        plot.xaxis.axis_label, plot.yaxis.axis_label = f"{across} (nm)", f"{up} (nm)"
        plot.grid.grid_line_color = "#eeeeee"
        plot.toolbar.logo = None
        _scatter(plot, source, (f"p{across}", f"p{up}"), view)
        plots.append(plot)
    return plots


def _view(name: str, count: int) -> CDSView:
    """The rows that a filter of this name lets through; all, at first."""
    from bokeh.models import BooleanFilter, CDSView

    return CDSView(filter=BooleanFilter([True] * count, name=name))


def _scatter(plot: figure, source: ColumnDataSource, places: tuple[str, str], view: CDSView) -> None:
    """Particles as points, with their slices where the mouse is."""
    from bokeh.models import HoverTool, LassoSelectTool, WheelZoomTool

    dots = plot.scatter(
        *places,
        source=source,
        view=view,
        size=7,
        marker="marker",
        fill_color="colour",
        line_color="white",
        line_width=0.4,
        fill_alpha=0.85,
        nonselection_fill_alpha=0.12,
        nonselection_line_alpha=0.1,
    )
    plot.add_tools(HoverTool(renderers=[dots], tooltips=TOOLTIP, limit=1))
    plot.select_one(LassoSelectTool).continuous = False
    plot.toolbar.active_scroll = plot.select_one(WheelZoomTool)
    plot.toolbar.active_drag = plot.select_one(LassoSelectTool)


def _histogram(scores: np.ndarray, threshold: float, label: str) -> figure:
    """How many particles have which score: all in grey, the chosen ones before them; and the threshold."""
    from bokeh.models import ColumnDataSource, Span
    from bokeh.plotting import figure

    left, right = edges(scores)[:-1], edges(scores)[1:]
    counts = np.bincount(bars(scores), minlength=BARS)
    plot = figure(name=HISTOGRAM, height=260, tools="", toolbar_location=None, **WIDE)
    plot.quad(left=left, right=right, bottom=0, top=counts, fill_color=GREY, line_color="white")
    source = ColumnDataSource({"left": left, "right": right, "top": counts}, name=CHOSEN)
    plot.quad("left", "right", "top", 0, source=source, fill_color="#4477aa", line_color="white")
    plot.add_layout(Span(location=threshold, dimension="height", line_color=DARK, line_dash="dashed", line_width=1.5))
    plot.axis.axis_label_text_font_style = "normal"
    plot.xaxis.axis_label, plot.yaxis.axis_label = f"{label} (higher is more known)", "particles"
    plot.y_range.start = 0
    plot.grid.grid_line_color = "#eeeeee"
    return plot


def _renumbered(content: dict) -> dict:
    """The JSON of a document with its models numbered from 1: bokeh numbers all that a process makes."""
    numbers: dict[str, str] = {}

    def copy(part: object) -> object:
        if isinstance(part, list):
            return [copy(item) for item in part]
        if not isinstance(part, dict):
            return part
        copied = {key: copy(value) for key, value in part.items()}
        if isinstance(part.get("id"), str):
            copied["id"] = numbers.setdefault(part["id"], f"m{len(numbers) + 1}")
        return copied

    return copy(content)
