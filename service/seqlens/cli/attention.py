"""``seqlens attention``: what the positions of texts look at."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqlens.cli.asking import AttentionQuestion, Connection, Looking
from seqlens.cli.connecting import run_with_client
from seqlens.cli.insight_data import attention_data
from seqlens.cli.showing import bar, for_people, print_titled, show
from seqlens_client import AttentionMap, Client, SeqLensError, SiteMap

KEYS_SHOWN = 10

Outcomes = Sequence[AttentionMap | SeqLensError]


def show_attention(connection: Connection, looking: Looking, question: AttentionQuestion) -> int:
    """Show the weights; returns 1 if any text has an error in place of them."""

    def look(client: Client) -> int:
        outcomes = _ask(client, looking, question)
        description = client.describe(looking.model, version=looking.showing.version)
        show(
            looking,
            partial(attention_data, description, outcomes),
            partial(_print_tables, looking, question, outcomes),
        )
        return int(any(isinstance(outcome, SeqLensError) for outcome in outcomes))

    return run_with_client(connection, look)


def _ask(client: Client, looking: Looking, question: AttentionQuestion) -> Outcomes:
    people, query = for_people(looking), question.query
    ask = partial(_attention, client, looking, question)
    if people:  # the row of a token is found in what is shown
        position = query if isinstance(query, int) else None
        return ask(looking.texts, queries=position, last_query=query is None)
    if isinstance(query, str):
        return [_ask_at(ask, place, text, query) for place, text in enumerate(looking.texts)]
    return ask(looking.texts, queries=query)


def _ask_at(
    ask: Callable[..., Outcomes], place: int, text: str, token: str
) -> AttentionMap | SeqLensError:
    """The weights of a token's query; which position it has is known once the text is read."""
    (found,) = ask([text], last_query=True)
    if isinstance(found, SeqLensError):
        return found
    if token not in found.tokens:
        raise ValueError(f"--query: got {token!r}, expected one of {', '.join(found.tokens)}")
    position = len(found.tokens) - 1 - found.tokens[::-1].index(token)
    (found,) = ask([text], queries=position)
    if isinstance(found, SeqLensError):
        return found
    return replace(found, maps=tuple(replace(each, sequence=place) for each in found))


def _attention(
    client: Client,
    looking: Looking,
    question: AttentionQuestion,
    texts: Sequence[str],
    *,
    queries: int | None = None,
    last_query: bool = False,
) -> Outcomes:
    people = for_people(looking)
    return client.attention(
        looking.model,
        texts,
        sites=question.sites or None,
        layers=question.layers or None,
        heads=question.heads or None,
        queries=queries,
        last_query=last_query,
        top_k=0 if people else question.top_k or 0,
        rollout=question.rollout,
        measures=not people,
        version=looking.showing.version,
        timeout=looking.showing.timeout,
        return_errors=True,
    )


def _print_tables(
    looking: Looking, question: AttentionQuestion, outcomes: Outcomes, console: Console
) -> None:
    most = question.top_k or KEYS_SHOWN
    for text, outcome in zip(looking.texts, outcomes, strict=True):
        if isinstance(outcome, SeqLensError):
            console.print(Text(f"{text}\nerror: {outcome.message}"))
            continue
        for site_map in outcome:
            row = site_map.query_row(-1 if question.query is None else question.query)
            title = _title(site_map, site_map.query_start + row)
            print_titled(console, title, _keys_table(site_map, row, most))
            console.print(_heads_table(site_map, row))


def _keys_table(site_map: SiteMap, row: int, most: int) -> Table:
    """The keys that a query looks at most, by the mean of the heads."""
    weights = site_map.head()[row]
    table = Table("position", "token", "weight", "")
    for key in np.argsort(-weights, kind="stable")[:most]:
        at, weight = site_map.key_start + int(key), float(weights[key])
        # Brackets in a token are no markup of ours.
        token = Text(site_map.key_text(at))
        table.add_row(str(at), token, f"{weight:.3f}", bar(weight, float(weights.max())))
    return table


def _title(site_map: SiteMap, position: int) -> str:
    site, proof = site_map.site, site_map.site.proof
    doubt = "" if proof is None or proof.proved else f"; not proved: {proof.reason}"
    query = f"{site_map.query_text(position)!r} at {position}"
    heads = f"mean of {len(site_map.heads)} heads" if len(site_map.heads) != 1 else "one head"
    return f"layer {site.layer}, {site.name} ({site.kind}): {query} looks at, {heads}{doubt}"


def _heads_table(site_map: SiteMap, row: int) -> Table:
    """A line for each head: how widely, how far and where it looks from this query."""
    table = Table("head", "entropy", "distance", "looks most at", "weight")
    position, keys = site_map.query_start + row, site_map.weights.shape[2]
    positions = site_map.key_start + np.arange(keys)
    for head, weights in zip(site_map.heads or ("all",), site_map.weights[:, row], strict=True):
        largest = int(weights.argmax())
        table.add_row(
            str(head),
            f"{entropy(weights):.2f}",
            f"{float(np.abs(positions - position) @ weights):.1f}",
            Text(f"{site_map.key_text(int(positions[largest]))} at {positions[largest]}"),
            f"{weights[largest]:.3f}",
        )
    return table


def entropy(weights: NDArray[np.float32]) -> float:
    """Entropy of one query's weights in parts of the largest there can be: 0 one key, 1 all."""
    positive = weights[weights > 0].astype(np.float64)
    most = np.log(len(weights)) if len(weights) > 1 else 1.0
    return abs(float(-(positive * np.log(positive)).sum() / most))
