"""Write the Grafana dashboard: ``python dashboards/grafana/generate.py`` (or ``make dashboards``).

The JSON beside this file is what Grafana is provisioned with; it is never edited by hand.
"""

from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Panel,
    VariableModel,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUTPUT = Path(__file__).parent / "seqlens-overview.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

# What the variables at the top select; length ranges exist on the latency series alone.
CHOSEN = 'model=~"$model"'
CHOSEN_KIND = f'{CHOSEN}, architecture=~"$architecture"'
CHOSEN_RANGE = f'{CHOSEN_KIND}, length_bucket=~"$length_bucket"'
# Errors are what the server is to blame for; a wrong request is not one.
SERVER_FAULTS = "INTERNAL|UNAVAILABLE|UNKNOWN|DATA_LOSS|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED"

HALF, WHOLE, HEIGHT = 12, 24, 8


def rate(selector: str) -> str:
    """Increase a second of a counter."""
    return f"rate({selector}[$__rate_interval])"


REQUEST_RATE = rate(f"seqlens_requests_total{{{CHOSEN_KIND}}}")


def quantile(share: float, *by: str) -> str:
    """Quantile of the request duration, in all or by labels."""
    buckets = rate(f"seqlens_request_duration_seconds_bucket{{{CHOSEN_RANGE}}}")
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) ({buckets}))"


def total(expression: str, *by: str) -> str:
    """Sum in all or by labels."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def mean(histogram: str) -> str:
    """Mean of a histogram by model."""
    parts = (total(rate(f"{histogram}_{part}{{{CHOSEN}}}"), "model") for part in ("sum", "count"))
    return " / ".join(parts)


def share(counter: str, matcher: str, *by: str) -> str:
    """What fits the matcher as a share of the whole counter."""
    part = total(rate(f"{counter}{{{CHOSEN_KIND}, {matcher}}}"), *by)
    return f"{part} / {total(rate(f'{counter}{{{CHOSEN_KIND}}}'), *by)}"


def errors_share(*by: str) -> str:
    """Share of requests that the server failed."""
    return share("seqlens_requests_total", f'code=~"{SERVER_FAULTS}"', *by)


def padding_share(*by: str) -> str:
    """Share of executed positions that held padding."""
    return share("seqlens_tokens_total", 'kind="padding"', *by)


def query(ref: str, expression: str, legend: str) -> prometheus.Dataquery:
    """One query of a panel over time."""
    return (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .ref_id(ref)
        .expr(expression)
        .legend_format(legend)
        .range()
    )


def graph(title: str, description: str, unit: str, *queries: tuple[str, str]) -> timeseries.Panel:
    """Lines over time; each query is an expression and its legend."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(HALF)
        .height(HEIGHT)
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.RIGHT)
            .calcs(["lastNotNull", "max"])
        )
    )
    for ref, (expression, legend) in zip("ABCD", queries, strict=False):
        panel = panel.with_target(query(ref, expression, legend))
    return panel


def number(title: str, description: str, unit: str, expression: str) -> stat.Panel:
    """One figure, now."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .span(4)
        .height(4)
        .with_target(query("A", expression, ""))
    )


def now_row() -> list[stat.Panel]:
    """The state of the server in six figures."""
    return [
        number("Versions ready", "Model versions that answer requests.", "short",
               total(f"seqlens_model_ready{{{CHOSEN}}}")),
        number("Requests", "Finished requests a second, whatever their outcome.", "reqps",
               total(REQUEST_RATE)),
        number("Errors", "Share of requests that the server failed.", "percentunit",
               errors_share()),
        number("p99", "99 of 100 successful requests are faster, all lengths together.", "s",
               quantile(0.99)),
        number("Queued tokens", "Tokens waiting now: what to scale on.", "short",
               total(f"seqlens_queue_tokens{{{CHOSEN}}}")),
        number("Padding", "Share of executed positions that held padding.", "percentunit",
               padding_share()),
    ]  # fmt: skip


def traffic_row() -> list[timeseries.Panel]:
    """What comes in, and what fails."""
    return [
        graph("Requests by model", "Finished requests a second.", "reqps",
              (total(REQUEST_RATE, "model"), "{{model}}")),
        graph("Error share by model", "Requests that the server failed; client faults left out.",
              "percentunit", (errors_share("model"), "{{model}}")),
    ]  # fmt: skip


def latency_row() -> list[timeseries.Panel]:
    """How long answers take, for each architecture and each range of lengths."""
    successes = "Successful requests, from their receipt to the hand-over of the answer."
    return [
        graph("Latency by architecture", successes, "s",
              (quantile(0.5, "architecture"), "{{architecture}} p50"),
              (quantile(0.99, "architecture"), "{{architecture}} p99")),
        graph("Latency by sequence length", f"{successes} Range of the longest sequence.", "s",
              (quantile(0.5, "length_bucket"), "{{length_bucket}} p50"),
              (quantile(0.99, "length_bucket"), "{{length_bucket}} p99")),
    ]  # fmt: skip


def batching_row() -> list[timeseries.Panel]:
    """How well sequences share executions."""
    return [
        graph("Padding share", "Executed positions that held padding.", "percentunit",
              (padding_share("model"), "{{model}}")),
        graph("Mean batch size", "Sequences in one execution.", "short",
              (mean("seqlens_batch_size_sequences"), "{{model}}")),
    ]  # fmt: skip


def queue_row() -> list[timeseries.Panel]:
    """What waits, for how long, and what runs."""
    return [
        graph("Queue", "Tokens that wait, by model.", "short",
              (total(f"seqlens_queue_tokens{{{CHOSEN}}}", "model"), "{{model}}")),
        graph("Oldest in the queue", "Age of the sequence that has waited longest.", "s",
              (f"max by (model) (seqlens_queue_oldest_seconds{{{CHOSEN}}})", "{{model}}")),
        graph("In flight", "Admitted and not answered yet.", "short",
              (total(f"seqlens_inflight_requests{{{CHOSEN}}}", "model"), "{{model}}")),
        graph("Refused and given up", "Sequences a second that were not answered.", "short",
              (total(rate(f"seqlens_rejected_total{{{CHOSEN}}}"), "reason"),
               "refused: {{reason}}"),
              (total(rate(f"seqlens_cancelled_total{{{CHOSEN}}}"), "cause", "stage"),
               "given up by {{cause}} in {{stage}}")),
    ]  # fmt: skip


def models_table() -> table.Panel:
    """Which versions are loaded, on what, and how exact batching is."""
    hidden = {"Time": True, "__name__": True, "job": True, "instance": True, "Value #info": True}
    return (
        table.Panel()
        .title("Models")
        .description("Loaded versions; the error is batched against alone, measured at load.")
        .datasource(SOURCE)
        .span(WHOLE)
        .height(HEIGHT)
        .with_target(_instant("info", f"seqlens_model_info{{{CHOSEN_KIND}}}"))
        .with_target(_instant("error", f"seqlens_batch_invariance_max_abs_error{{{CHOSEN}}}"))
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": hidden,
                    "renameByName": {"Value #error": "largest error, batched against alone"},
                },
            )
        )
    )


def _instant(ref: str, expression: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .datasource(SOURCE)
        .ref_id(ref)
        .expr(expression)
        .format(PromQueryFormat.TABLE)
        .instant()
    )


def label_variable(name: str, label: str, query_text: str) -> dashboard.QueryVariable:
    """A choice among the values of a label, all of them at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query_text)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def variables() -> list[Builder[VariableModel]]:
    """The choices at the top."""
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        label_variable("model", "Model", "label_values(seqlens_model_info, model)"),
        label_variable(
            "architecture", "Architecture", "label_values(seqlens_model_info, architecture)"
        ),
        label_variable(
            "length_bucket",
            "Length",
            "label_values(seqlens_request_duration_seconds_count, length_bucket)",
        ),
    ]


def overview() -> dashboard.Dashboard:
    """The whole dashboard, row by row."""
    board = (
        dashboard.Dashboard("SeqLens overview")
        .uid("seqlens-overview")
        .description("Sequence models served by SeqLens: traffic, latency by length, batching.")
        .tags(["seqlens"])
        .version(1)
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables(variables())
    )
    rows: dict[str, list[Builder[Panel]]] = {
        "Now": [*now_row()],
        "Traffic": [*traffic_row()],
        "Latency": [*latency_row()],
        "Batching": [*batching_row()],
        "Queue": [*queue_row()],
        "Models": [models_table()],
    }
    for title, panels in rows.items():
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return board


def render() -> str:
    """The dashboard's JSON, the same for the same code."""
    board = overview().build()
    # The builder writes the schema of Grafana 11.6; this one is read by 10 and later as well.
    board.schema_version = 39
    for number, panel in enumerate(board.panels or [], start=1):
        panel.id_val = number
    return JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(render(), encoding="utf-8")
