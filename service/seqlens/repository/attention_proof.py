"""The attention sites of a model, tried when it is loaded."""

import logging
import time

from seqlens.attention.proof import prove_sites
from seqlens.attention.sites import AttentionReport, Site, SiteProof
from seqlens.backends.base import Engine

_log = logging.getLogger(__name__)


def prove_attention(engine: Engine, *, seconds: float) -> AttentionReport:
    """Open the model up and try its attention sites, in about ``seconds`` at most.

    A model is served whether or not it can be looked into: whatever fails here is a finding, and
    the sites that its graph shows stay listed with the reason.
    """
    started = time.perf_counter()
    try:
        tapped = engine.tapped()
        if tapped is None:
            return _untried(engine, "the backend cannot look inside its models")
        try:
            return prove_sites(tapped, engine.run, seconds=seconds)
        finally:
            tapped.close()
    except Exception as error:  # of libraries as well: what they raise is not for us to foresee
        _log.warning("attention sites cannot be tried", exc_info=error)
        reason = f"cannot be opened to look inside: {error}"
        return _untried(engine, reason, time.perf_counter() - started)


def _untried(engine: Engine, reason: str, seconds: float = 0.0) -> AttentionReport:
    sites = tuple(
        Site(site, (), SiteProof(False, reason), measured=False, tappable=False, note=reason)
        for site in engine.anatomy.attention_sites
    )
    return AttentionReport(sites, seconds, (f"attention: {reason}",) if sites else ())
