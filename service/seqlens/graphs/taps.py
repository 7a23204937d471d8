"""The weights of attention sites as outputs of the graph, and other weights put in their place.

Nothing is run here. The graph is only added to: what it computed before it computes still, in
the same way, so that the plain outputs stay what they were.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from onnx import ModelProto
from onnx.helper import make_node
from onnx.inliner import inline_local_functions

from seqlens.errors import NotInModel
from seqlens.graphs.anatomy import AttentionSite, Tap, Untapped
from seqlens.graphs.attention_sites import FUSED, find_sites
from seqlens.graphs.fused_taps import FusedPlan, add_weights, plan_fused
from seqlens.graphs.onnx_flow import Flow, Step, flatten
from seqlens.graphs.tap_bodies import Place, Surgery, own_copy, typed
from seqlens.graphs.tap_softmax import SoftmaxPlan, plan_softmax
from seqlens.graphs.tap_types import declared_types, element_type

_STEPS = "of all steps of a loop; where they follow no length they stand as heads"


@dataclass(frozen=True, slots=True)
class TapReading:
    """All attention sites of a model, in order of execution."""

    taps: tuple[Tap, ...]
    untapped: tuple[Untapped, ...]


@dataclass(frozen=True, slots=True)
class TappedGraph:
    """A copy of a model with taps, and the names that they go by in it."""

    model: ModelProto
    outputs: dict[str, str]  # by site: the graph output that holds its weights
    inputs: dict[str, str] = field(default_factory=dict)  # by site: the input read instead of them


def read_taps(model: ModelProto) -> TapReading:
    """Find all attention sites and say of which the weights can be had.

    Names and layers are those of ``ModelAnatomy.attention_sites``. Weights are not needed: a
    model loaded without its external data reads alike.
    """
    taps: list[Tap] = []
    untapped: list[Untapped] = []
    model = _without_functions(model)
    flow, places = flatten(model), Surgery(model).places
    for step, site in find_sites(flow):
        plan = _plan(flow, step)
        if isinstance(plan, str):
            untapped.append(Untapped(site, plan))
        else:
            taps.append(_tap(site, plan, places))
    return TapReading(tuple(taps), tuple(untapped))


def tap_model(
    model: ModelProto, sites: Iterable[str], *, replaced: Iterable[str] = ()
) -> TappedGraph:
    """Copy a model and give it the weights of the named sites as outputs.

    For the sites in ``replaced`` a new input, of the weights' own datatype and shape, is read
    wherever the weights were; a tap of the same site still gives what the model computed. Raises
    ``NotInModel`` for a site that the model does not have or that cannot be tapped or replaced.
    """
    tapping = _Tapping(own_copy(model))
    inputs = {site: tapping.replace(site) for site in dict.fromkeys(replaced)}
    outputs = {site: tapping.output(site) for site in dict.fromkeys(sites)}
    return TappedGraph(tapping.surgery.model, outputs, inputs)


def _plan(flow: Flow, step: Step) -> SoftmaxPlan | FusedPlan | str:
    return plan_fused(flow, step) if step.operator in FUSED else plan_softmax(flow, step)


def _tap(site: AttentionSite, plan: SoftmaxPlan | FusedPlan, places: dict[str, Place]) -> Tap:
    if isinstance(plan, FusedPlan):  # a kernel reads no weights, so none can be put in
        return Tap(site, measured=plan.measured, replaceable=False, note=plan.note)
    repeated = places[plan.value].body.repeated
    note = "; ".join(filter(None, (plan.note, _STEPS if repeated else "")))
    return Tap(site, measured=True, replaceable=not repeated, note=note)


def _without_functions(model: ModelProto) -> ModelProto:
    return inline_local_functions(model) if model.functions else model


class _Tapping:
    """Taps put into one model, in place, one site at a time."""

    def __init__(self, model: ModelProto) -> None:
        self.surgery = Surgery(model)
        self._flow = flatten(model)
        self._types = declared_types(self.surgery.bodies)
        self._plans = {site.name: _plan(self._flow, step) for step, site in find_sites(self._flow)}
        self._moved: dict[str, str] = {}  # new names of values that gave theirs to an input

    def output(self, site: str) -> str:
        """Make the weights of a site an output of the graph; its name."""
        plan, graph = self._tappable(site), self.surgery.model.graph
        if isinstance(plan, FusedPlan):
            place, kind = self.surgery.places[plan.anchor], self._type(plan.query)
            name = add_weights(self.surgery, place, plan, kind)
        else:
            place, kind = self.surgery.places[plan.value], self._type(plan.value)
            name = self._moved.get(plan.value, place.name)
        name = self.surgery.lift(place.body, name, kind)
        if all(output.name != name for output in graph.output):
            graph.output.append(typed(name, kind))
        return name

    def replace(self, site: str) -> str:
        """Let everything that reads the weights of a site read a new input; its name.

        What computed them keeps computing them under another name, and the input takes over the
        old one, so that readers in any body and outputs of the graph need no change.
        """
        plan = self._tappable(site)
        if isinstance(plan, FusedPlan):
            raise NotInModel(f"attention site {site} is one kernel: its weights cannot be replaced")
        place = self.surgery.places[plan.value]
        if place.body.repeated:
            raise NotInModel(
                f"attention site {site} lies in a loop: its weights cannot be replaced"
            )
        given, computed = self.surgery.fresh("seqlens_weights"), self.surgery.fresh(place.name)
        self.surgery.model.graph.input.append(typed(given, self._type(plan.value)))
        for index, name in enumerate(place.node.output):
            if name == place.name:
                place.node.output[index] = computed
        put = make_node("Identity", [given], [place.name])
        self.surgery.insert_after(place.body, place.node, [put])
        self._moved[plan.value] = computed
        return given

    def _type(self, value: str) -> int:
        return element_type(self._flow, self._types, value)

    def _tappable(self, site: str) -> SoftmaxPlan | FusedPlan:
        plan = self._plans.get(site)
        if plan is None:
            raise NotInModel(f"no attention site {site}; there are: {', '.join(self._plans)}")
        if isinstance(plan, str):
            raise NotInModel(f"attention site {site} cannot be tapped: {plan}")
        return plan
