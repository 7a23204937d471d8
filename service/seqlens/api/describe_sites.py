"""What is told of an attention site, with its proof."""

from seqlens.attention.sites import Site, SiteProof
from seqlens_wire.pb import sequences_pb2 as pb


def describe_site(site: Site) -> pb.AttentionSite:
    """Message of a site as it was tried when the model was loaded."""
    found = site.site
    return pb.AttentionSite(
        name=found.name,
        layer=found.layer,
        kind=found.kind,
        operator=found.operator,
        heads=found.heads,
        confidence=found.confidence,
        tappable=site.drawable,
        measured=site.measured,
        proof=_proof(site.proof, site.axes),
        note=site.note,
    )


def _proof(proof: SiteProof, axes: tuple[str, ...]) -> pb.AttentionProof:
    """Errors that are None were not measured, and are left out."""
    return pb.AttentionProof(
        proved=proof.proved,
        reason=proof.reason,
        axes=axes,
        row_sum_error=proof.row_sum_error,
        padding_weight=proof.padding_weight,
        repeat_error=proof.repeat_error,
        output_error=proof.output_error,
        feedback_error=proof.feedback_error,
        uniform_movement=proof.uniform_movement,
        product_error=proof.product_error,
        padded_error=proof.padded_error,
    )
