"""See the study notes' claims on live models, and which of them do not hold.

Starts `seqlens serve` with the example models of both tasks, untrained ones, models with 1, 2, 4
and 8 heads, and MiniLM; asks them through the public client for attention maps, influence, gates
and latency; writes a page with pictures and all figures as JSON.

    python examples/insight.py [--output build/insight]
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

from insight_report import distance, facts, gates_open, heads_seen, kitten, latency, recall
from insight_report.limits import limits
from insight_report.page import page
from insight_report.prepare import prepare
from insight_report.section import tell
from serving import served

from seqlens_client import Client

SECTIONS = (
    kitten.SECTION,
    distance.SECTION,
    facts.SECTION,
    heads_seen.SECTION,
    latency.SECTION,
    gates_open.SECTION,
    recall.SECTION,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What can be seen inside three architectures.")
    parser.add_argument("--antecedent", type=Path, default=Path("build/repository"))
    parser.add_argument("--ledger", type=Path, default=Path("build/ledger"))
    parser.add_argument("--output", type=Path, default=Path("build/insight"))
    options = parser.parse_args()

    repository = options.output / "models"
    prepare([options.antecedent, options.ledger], repository)
    log = options.output / "server.log"
    with served(repository, log) as addresses, Client(addresses.grpc) as client:
        told = [tell(section, client) for section in SECTIONS]
    figures = {one.section.key: one.figures for one in told}
    found = limits(figures)
    texts = {one.section.key: one.sentences for one in told} | {"limits": found}
    report = options.output / "report.html"
    report.write_text(page(told, found, f"SeqLens {version('seqlens')} on {platform.platform()}"))
    (options.output / "report.json").write_text(
        json.dumps({"figures": figures, "sentences": texts}, indent=1)
    )
    for sentences in texts.values():
        print("", *(f"  {sentence}" for sentence in sentences), sep="\n")
    print(f"\n{report} and report.json beside it")


if __name__ == "__main__":
    main()
