"""Pictures of what was seen inside a model, with matplotlib where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from seqlens_client._attention import SiteMap
    from seqlens_client._gates import GateLayer
    from seqlens_client._influence import InfluenceMap

# More texts than this beside an axis would cover each other.
MOST_TEXTS = 64


def plot_map(site_map: SiteMap, head: int | None, ax: Any) -> Any:
    """Draw weights [queries, keys] as an image whose axes have the tokens' texts."""
    weights = site_map.head(head)
    queries, keys = weights.shape
    ax = _image(weights, ax)
    _name(ax.set_xticks, [site_map.key_text(site_map.key_start + key) for key in range(keys)], 90)
    _name(ax.set_yticks, [site_map.query_text(site_map.query_start + q) for q in range(queries)])
    shown = "mean of heads" if head is None else f"head {head}"
    ax.set(xlabel="looked at", ylabel="looking", title=f"layer {site_map.site.layer}, {shown}")
    return ax


def plot_influence(influence: InfluenceMap, ax: Any) -> Any:
    """Draw shares: a bar for each position where there is one row, else an image [rows, columns].

    Positions below the floor have no bar and no colour.
    """
    shares = np.where(influence.below_floor, np.nan, influence.shares)
    texts = [influence.text(position) for position in influence.input_positions]
    if len(shares) == 1:
        ax = _axes(ax)
        ax.bar(range(len(texts)), shares[0])
        ax.set(ylabel="share")
    else:
        ax = _image(shares, ax)
        _name(ax.set_yticks, [influence.text(position) for position in influence.output_positions])
        ax.set(ylabel="output position")
    _name(ax.set_xticks, texts, 90)
    ax.set(xlabel="input position", title=f"{influence.measure} ({influence.method})")
    return ax


def plot_gates(layer: GateLayer, sequence: int, tokens: Sequence[str], ax: Any) -> Any:
    """Draw the mean of each gate over the steps, and the range of its quantiles."""
    ax = _axes(ax)
    for reading in layer.gates:
        if reading.sequence != sequence:
            continue
        (line,) = ax.plot(reading.mean, label=reading.gate)
        if len(reading.quantiles):
            low, high = reading.quantiles.min(axis=0), reading.quantiles.max(axis=0)
            ax.fill_between(range(len(low)), low, high, color=line.get_color(), alpha=0.15)
    _name(ax.set_xticks, tokens, 90)
    ax.set(xlabel="step", title=f"layer {layer.layer}, {layer.cell} {layer.direction}")
    ax.legend()
    return ax


def _image(values: NDArray[Any], ax: Any) -> Any:
    ax = _axes(ax)
    ax.imshow(values, vmin=0.0, aspect="auto", interpolation="nearest")
    return ax


def _name(set_ticks: Any, texts: Sequence[str], rotation: int = 0) -> None:
    if 0 < len(texts) <= MOST_TEXTS:
        set_ticks(range(len(texts)), labels=texts, rotation=rotation)


def _axes(ax: Any) -> Any:
    """The caller's axes, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as missing:
        raise ImportError(
            "plot() draws with matplotlib, which is not installed: pip install 'seqlens[plot]'"
        ) from missing
    return pyplot.subplots()[1]
