"""Pictures of attention weights, with matplotlib where it is installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqlens_client._attention import SiteMap

# More texts than this beside an axis would cover each other.
MOST_TEXTS = 64


def plot_map(site_map: SiteMap, head: int | None, ax: Any) -> Any:
    """Draw weights [queries, keys] as an image whose axes have the tokens' texts."""
    weights = site_map.head(head)
    ax = _new_axes() if ax is None else ax
    ax.imshow(weights, vmin=0.0, aspect="auto", interpolation="nearest")
    queries, keys = weights.shape
    if keys <= MOST_TEXTS:
        texts = [site_map.key_text(site_map.key_start + key) for key in range(keys)]
        ax.set_xticks(range(keys), labels=texts, rotation=90)
    if queries <= MOST_TEXTS:
        texts = [site_map.query_text(site_map.query_start + query) for query in range(queries)]
        ax.set_yticks(range(queries), labels=texts)
    shown = "mean of heads" if head is None else f"head {head}"
    ax.set(xlabel="looked at", ylabel="looking", title=f"layer {site_map.site.layer}, {shown}")
    return ax


def _new_axes() -> Any:
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError as missing:
        raise ImportError(
            "plot() draws with matplotlib, which is not installed: pip install matplotlib"
        ) from missing
    return pyplot.subplots()[1]
