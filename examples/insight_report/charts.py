"""Pictures as SVG, in colours that can be told apart by everyone (Okabe and Ito 2008)."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Texts stay texts, in the reader's own font.
matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "seqlens"})

COLOURS = {"rnn": "#d55e00", "lstm": "#0072b2", "transformer": "#009e73"}
OTHER_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

Line = tuple[Sequence[float], Sequence[float]]  # x and y; NaN leaves a gap


def lines(
    panels: Mapping[str, Mapping[str, Line]],
    *,
    across: str,
    up: str,
    log_up: bool = False,
    dashed: Mapping[str, float] | None = None,
) -> str:
    """A panel beside the other, each with lines by name, on one scale."""
    figure = Figure(figsize=(3.6 * len(panels) + 0.4, 2.9), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for place, (title, series) in zip(axes, panels.items(), strict=True):
        _draw(place, series)
        place.set_title(title)
        place.set_xlabel(across)
        for name, level in (dashed or {}).items():
            place.axhline(level, color="#777777", linestyle="--", linewidth=0.8, label=name)
        if log_up:
            place.set_yscale("log")
    axes[0].set_ylabel(up)
    axes[-1].legend(frameon=False, fontsize=8)
    return svg(figure)


def heads(weights: Mapping[str, Sequence[Sequence[float]]], colour_bar: str) -> str:
    """For each model a field of layers and heads, coloured by one number each."""
    figure = Figure(figsize=(3.3 * len(weights) + 0.6, 2.6), layout="constrained")
    places = figure.subplots(1, len(weights), squeeze=False)[0]
    image = None
    for place, (title, rows) in zip(places, weights.items(), strict=True):
        image = place.imshow(rows, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        place.set_title(title)
        place.set_xlabel("head")
        place.set_ylabel("layer")
        place.set_xticks(range(len(rows[0])))
        place.set_yticks(range(len(rows)))
    figure.colorbar(image, ax=places, label=colour_bar)
    return svg(figure)


def bars(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], up: str) -> str:
    """Over the words of a text, one panel under the other."""
    figure = Figure(figsize=(9, 1.35 * len(rows) + 0.9), layout="constrained")
    places = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for place, (name, values), colour in zip(places, rows.items(), OTHER_COLOURS, strict=False):
        place.bar(range(len(tokens)), values, color=colour)
        place.set_title(name, loc="left")
        place.set_ylabel(up)
    places[-1].set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
    return svg(figure)


def svg(figure: Figure) -> str:
    """The figure as an element to stand in a page."""
    for place in figure.axes:
        place.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw(place: Axes, series: Mapping[str, Line]) -> None:
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = COLOURS.get(name, OTHER_COLOURS[number % len(OTHER_COLOURS)])
        place.plot(x, np.asarray(y, float), marker="o", markersize=3, color=colour, label=name)
    place.set_xscale("log", base=2)
    shown = sorted({value for x, _ in series.values() for value in x})
    place.set_xticks(shown, [f"{value:g}" for value in shown])
