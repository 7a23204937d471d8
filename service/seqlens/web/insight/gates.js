// Gates over the steps of a sequence: the mean over the units, with quantiles around it.

const gatesState = { layer: 0, step: null, product: "linear" };

const GATES = {
  input: ["Input gate", "How much of the new is written into the cell"],
  forget: ["Forget gate", "How much of the cell is kept at a step; 1 keeps all of it"],
  output: ["Output gate", "How much of the cell is shown"],
  cell: ["Candidate", "What would be written, from −1 to 1"],
  forget_product: ["Product of forget gates", "The running product: what forgetting alone leaves of what the first step wrote. "
    + "It is no proof of what is remembered: the same may be written again"],
  update: ["Update gate", "How much of the state is kept at a step; 1 keeps all of it"],
  reset: ["Reset gate", "How much of the state the candidate sees"],
  new: ["Candidate", "What would be written, from −1 to 1"],
  update_product: ["Product of update gates", "The running product: what updating alone leaves of what the first step wrote. "
    + "It is no proof of what is remembered: the same may be written again"],
};
const SMALLEST = 1e-12; // of a product that a chart shows

function gatesView(sequence) {
  const layers = DATA.gates.layers.map((layer) => ({ ...layer, gates: layer.gates.filter((gate) => gate.sequence === sequence) }))
    .filter((layer) => layer.gates.length);
  if (!layers.length) return make("p", { class: "panel" }, "No gates of this sequence are here.");
  gatesState.layer = Math.min(gatesState.layer, layers.length - 1);
  const body = make("div");
  const redraw = () => body.replaceChildren(...gateLayer(layers[gatesState.layer], sequence));
  redraw();
  const options = layers.map((layer, i) => [i, `Layer ${layer.layer} · ${layer.cell} · ${layer.direction} · ${layer.name}`]);
  const isProduct = (gate) => gate.gate.endsWith("_product");
  const drawn = choices("Products are drawn", [["linear", "linear"], ["log", "logarithmic"]], gatesState.product,
    (value) => { gatesState.product = value; redraw(); });
  return make("div", {}, make("div", { class: "panel" }, make("div", { class: "controls" },
    labelled("Layer", select(options, gatesState.layer, (value) => { gatesState.layer = Number(value); redraw(); })),
    layers.some((layer) => layer.gates.some(isProduct)) ? drawn : null)), body);
}

function gateLayer(layer, sequence) {
  const steps = numbers(layer.gates[0].mean).length;
  const state = gatesState;
  state.step = Math.min(state.step ?? steps - 1, steps - 1);
  const charts = layer.gates.map((gate) => gateChart(gate, sequence, steps, (step) => show(step)));
  const text = words(sequence, { name: "Steps of the sequence", chosen: () => state.step, onpick: (step) => show(step),
    canPick: (step) => step < steps, colouring: (step) => ({ part: NaN, text: `step ${step}` }) });
  const show = (step) => {
    state.step = step;
    for (const one of charts) one.show(step);
    text.update();
  };
  show(state.step);
  const quantiles = DATA.gates.quantiles.map((one) => shown(one, 2)).join(", ");
  return [make("div", { class: "panel" },
    make("p", { class: "hint" }, `${layer.units} units, recomputed from the layer's weights: hidden states made of these gates differ from the model's own by `
      + `${magnitude(layer.recomputed_error)} at most. Lines are means over the units`, quantiles ? `, bands quantiles (${quantiles}).` : "."),
    text.element),
  make("div", { class: "columns" }, charts.map((one) => one.element))];
}

function gateChart(gate, sequence, steps, onpoint) {
  const [name, means] = GATES[gate.gate] ?? [gate.gate, ""];
  const mean = numbers(gate.mean);
  const quantiles = DATA.gates.quantiles.map((quantile, i) => ({ quantile, values: numbers(gate.quantiles).subarray(i * steps, (i + 1) * steps) }))
    .sort((a, b) => a.quantile - b.quantile);
  const [least, most, logarithmic] = gateRange(gate, mean, quantiles);
  const pairs = range(0, Math.floor(quantiles.length / 2)).map((i) => ({ low: quantiles[i].values, high: quantiles.at(-1 - i).values }));
  const median = quantiles.filter((one) => one.quantile === 0.5).map((one) => ({ kind: "median", values: one.values }));
  const readout = make("p", { class: "readout" });
  const picture = chart({ lines: [...median, { kind: "", values: mean }], bands: pairs, places: steps, least, most, logarithmic,
    label: `${name} over the steps`, nameAt: (step) => tokenAt(sequence, step), onpoint, chosen: () => gatesState.step });
  const show = (step) => {
    picture.show(step);
    readout.replaceChildren("Step ", `${step} `, quoted(tokenAt(sequence, step)), ": mean ", make("b", {}, magnitude(mean[step])),
      quantiles.length ? `; quantiles ${quantiles.map((one) => `${shown(one.quantile, 2)}: ${magnitude(one.values[step])}`).join(", ")}` : "");
  };
  return { element: make("section", { class: "panel" }, make("h2", {}, name), make("p", { class: "hint" }, `${means}.`), picture.element, readout), show };
}

function gateRange(gate, mean, quantiles) {
  if (gate.gate.endsWith("_product") && gatesState.product === "log") {
    const known = [mean, ...quantiles.map((one) => one.values)].flatMap((values) => Array.from(values)).filter((value) => value > 0);
    const least = Math.max(SMALLEST, Math.min(0.1, ...known));
    return [10 ** Math.floor(Math.log10(least)), 1, true];
  }
  return gate.gate === "cell" || gate.gate === "new" ? [-1, 1, false] : [0, 1, false];
}
