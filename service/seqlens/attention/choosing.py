"""Which attention sites a selection means."""

from collections.abc import Iterator, Sequence
from typing import get_args

from seqlens.attention.selection import AttentionSelection, MapDatatype, Reduction, Span
from seqlens.attention.sites import AttentionReport, Site, SiteProof
from seqlens.errors import InvalidRequest, NotInModel
from seqlens.graphs.anatomy import AttentionSite, ModelAnatomy

ROLLOUT = "rollout"  # name of the site whose map goes through all layers


def choose_sites(
    report: AttentionReport,
    selection: AttentionSelection,
    anatomy: ModelAnatomy | None = None,
) -> tuple[Site, ...]:
    """The sites to draw, in order of execution; for a rollout those that it goes through.

    Sites asked for by name need not be proved, all others are. Raises ``InvalidRequest`` for
    unknown sites and layers, for those that cannot be drawn, and for parts of the selection
    that contradict each other or the sites; ``NotInModel`` for models without attention,
    telling by ``anatomy`` what they have instead.
    """
    _check_selection(selection)
    if not report.sites:
        raise NotInModel(f"the model computes no attention weights; {_instead(anatomy)}")
    chosen = {*_by_name(report, selection), *_by_layer(report, selection)}
    if not selection.sites and not selection.layers:
        chosen = _offered(report, selection, anatomy)
    sites = tuple(site for site in report.sites if site.name in chosen)
    _check_heads(sites, selection)
    if selection.rollout:
        _check_rollout(sites)
    return sites


def answered_sites(sites: Sequence[Site], selection: AttentionSelection) -> tuple[Site, ...]:
    """The sites whose maps are in the answer: those drawn, or that of their rollout."""
    return (rollout_site(sites),) if selection.rollout else tuple(sites)


def rollout_site(sites: Sequence[Site]) -> Site:
    """What stands for the product of these sites."""
    last = sites[-1]
    unproved = [site.name for site in sites if not site.proof.proved]
    reason = f"not proved: {', '.join(unproved)}" if unproved else ""
    return Site(
        AttentionSite(ROLLOUT, last.site.layer, "self", ROLLOUT, heads=1),
        axes=("query", "key"),
        proof=SiteProof(not unproved, reason),
        measured=False,
        note=f"product through {', '.join(site.name for site in sites)}",
        queries=last.queries,
        keys=last.keys,
    )


def _check_selection(selection: AttentionSelection) -> None:
    _check_among("selection.datatype", selection.datatype, get_args(MapDatatype))
    reductions = get_args(Reduction)
    _check_among(
        "selection.reduce_heads",
        selection.reduce_heads,
        reductions[:2] if selection.rollout else reductions,
    )
    if selection.top_k < 0:
        raise InvalidRequest("selection.top_k", got=str(selection.top_k), expected="at least 0")
    if selection.last_query and selection.queries != Span():
        raise InvalidRequest(
            "selection.last_query", got="a span of queries as well", expected="one of the two"
        )


def _check_among(field: str, got: str, known: Sequence[str]) -> None:
    if got not in known:
        expected = ", ".join(repr(one) for one in known)
        raise InvalidRequest(field, got=repr(got), expected=f"one of {expected}")


def _by_name(report: AttentionReport, selection: AttentionSelection) -> Iterator[str]:
    sites = {site.name: site for site in report.sites}
    for name in selection.sites:
        if name not in sites:
            known = ", ".join(repr(one.name) for one in report.sites if one.drawable)
            raise InvalidRequest(
                "selection.sites", got=repr(name), expected=f"one of {known or 'none'}"
            )
        _check_drawable("selection.sites", sites[name])
        yield name


def _check_drawable(field: str, site: Site) -> None:
    if not site.drawable:
        reason = site.proof.reason or site.note
        raise InvalidRequest(
            field, got=repr(site.name), expected=f"a site that can be drawn; {reason}"
        )


def _by_layer(report: AttentionReport, selection: AttentionSelection) -> Iterator[str]:
    layers = sorted({site.site.layer for site in report.sites})
    count = layers[-1] + 1
    for asked in selection.layers:
        layer = asked + count if asked < 0 else asked
        if layer not in layers:
            raise InvalidRequest(
                "selection.layers",
                got=str(asked),
                expected=f"{_few(layers)}, or {-count} to -1 from the end",
            )
        here = [site for site in report.sites if site.site.layer == layer]
        proved = [site for site in here if site.proof.proved]
        if not proved:
            _check_drawable("selection.layers", here[0])
            raise InvalidRequest(
                "selection.layers",
                got=str(asked),
                expected=f"a proved layer; {here[0].name!r} is not ({here[0].proof.reason}) "
                "and is drawn only if asked for by name in selection.sites",
            )
        yield from (site.name for site in proved)


def _few(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return " or ".join(map(str, numbers))


def _offered(
    report: AttentionReport, selection: AttentionSelection, anatomy: ModelAnatomy | None
) -> set[str]:
    """All that are proved; for a rollout those of self-attention."""
    offered = [site for site in report.proved if not selection.rollout or _rolls(site)]
    if offered:
        return {site.name for site in offered}
    if selection.rollout and report.proved:
        raise NotInModel("the model has no self-attention to roll out")
    reasons = "; ".join(f"{site.name!r}: {site.proof.reason}" for site in report.sites[:3])
    drawable = [site.name for site in report.sites if site.drawable]
    by_name = f"; by name these can be drawn: {', '.join(map(repr, drawable))}" if drawable else ""
    raise NotInModel(
        f"no attention weights of the model are proved ({reasons}){by_name}; {_instead(anatomy)}"
    )


def _instead(anatomy: ModelAnatomy | None) -> str:
    cells = {one.cell for one in anatomy.recurrent_layers} if anatomy else set()
    gates = " and the gates of its recurrent layers" if cells & {"lstm", "gru"} else ""
    return f"it can be asked for the influence of its inputs{gates} instead"


def _check_heads(sites: Sequence[Site], selection: AttentionSelection) -> None:
    for site in sites:
        heads = site.site.heads or 1
        for head in selection.heads:
            if not 0 <= head < heads:
                raise InvalidRequest(
                    "selection.heads", got=str(head), expected=f"0 to {heads - 1} in {site.name!r}"
                )


def _rolls(site: Site) -> bool:
    return site.site.kind in ("self", "unknown") and site.queries == site.keys


def _check_rollout(sites: Sequence[Site]) -> None:
    for site in sites:
        if not _rolls(site):
            kind = site.site.kind
            raise InvalidRequest(
                "selection.rollout",
                got=f"{site.name!r}, {kind} attention",
                expected="self-attention only",
            )
        if site.keys != sites[0].keys:
            raise InvalidRequest(
                "selection.rollout",
                got=f"{sites[0].name!r} and {site.name!r}, over different positions",
                expected="layers of one stack",
            )
