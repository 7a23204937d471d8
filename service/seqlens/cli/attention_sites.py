"""The attention sites of a model and their proof, for people."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqlens.attention.sites import AttentionReport, Site


def print_sites(report: AttentionReport, console: Console) -> None:
    """Print what was measured of each site; nothing for models without attention.

    Row sums and padding are errors of the weights; the outputs must not move when the weights are
    put back in, and must when uniform ones are.
    """
    if not report.sites:
        return
    table = Table(title="attention maps: largest errors, and how far outputs move")
    for heading in ("site", "weights", "row sums", "padding", "put back", "uniform", "proved"):
        table.add_column(heading, overflow="fold")
    for site in report.sites:
        proof = site.proof
        errors = (
            proof.row_sum_error,
            proof.padding_weight,
            proof.feedback_error,
            proof.uniform_movement,
        )
        proved = "yes" if proof.proved else f"no: {proof.reason or site.note}"
        shown = ("-" if error is None else f"{error:.1e}" for error in errors)
        table.add_row(escape(site.name), _origin(site), *shown, escape(proved))
    console.print(table)


def _origin(site: Site) -> str:
    if not site.drawable:
        return "cannot be drawn"
    return "the model's own" if site.measured else "recomputed"
