// Influence: what the answer depends on, beside the path of its gradient, both as shares of a row.

const influenceState = { row: null, column: null };

const MEASURES = {
  occlusion: {
    name: "Occlusion: what the answer depends on",
    means: "Each token is replaced by other known ones, and the answer moves by so much. It does not tell by which way the "
      + "token acts, and two tokens that say the same can stand in for each other, so that neither seems to matter.",
  },
  jacobian: {
    name: "Jacobian: the gradient path",
    means: "The size of the answer's derivative by a token's embedding: how a small change passes through, which is what "
      + "training can follow. A share of zero does not prove that the answer ignores the token: a state that is held fast "
      + "carries a fact that no small change moves.",
  },
};
const METHODS = { replacement: "replaced by known tokens", central_differences: "central differences",
  autograd: "exact, by autograd", closed_form: "exact, in closed form" };
const FLOOR = "Hatched: below the floor, which is what rounding alone gives. Nothing is known there, not even that it is zero.";

function influenceView(sequence) {
  const maps = DATA.influence.maps.filter((map) => map.sequence === sequence).map(influenceOf);
  const parts = maps.length ? influencePanels(maps, sequence) : [make("p", { class: "panel" }, "No influence of this sequence was measured.")];
  return make("div", {}, make("div", { class: "panel" }, make("h2", {}, targetText(DATA.influence.target)),
    make("p", { class: "hint wide" }, "Values of a row are shown as shares, in parts of their sum, so that measures and architectures share one scale. ",
      `It took ${DATA.influence.model_runs} runs of the model and ${shown(DATA.influence.seconds, 2)} s.`),
    swatch("hatched", FLOOR)), ...parts, ...distancePanels(DATA.influence.by_distance ?? []));
}

function targetText(target) {
  const output = target.output === "hidden" ? "the last vectors of the positions" : `output ${target.output || "(the first)"}`;
  if (target.predicted_class) return `What moves the predicted class in ${output}`;
  if (target.class_index !== undefined && target.class_index !== null) return `What moves class ${target.class_index} in ${output}`;
  return `What moves ${output}, by its norm`;
}

function influenceOf(map) {
  const [values, shares, floors] = [numbers(map.values), numbers(map.shares), numbers(map.floors)];
  const columns = map.input_positions.length;
  const at = (row, column) => row * columns + column;
  return { ...map, columns, rows: Math.max(1, map.output_positions.length), about: MEASURES[map.measure],
    value: (row, column) => values[at(row, column)],
    share: (row, column) => shares[at(row, column)],
    floor: (row) => floors[row],
    // What is not above the floor has no share.
    hidden: (row, column) => !(shares[at(row, column)] > 0) };
}

function influencePanels(maps, sequence) {
  const state = influenceState;
  const rows = maps[0].rows;
  state.row = Math.min(state.row ?? rows - 1, rows - 1);
  state.column = Math.min(state.column ?? largestColumn(maps[0], state.row), maps[0].columns - 1);
  const panels = [];
  const show = (place) => panels.forEach((panel) => panel.show(place ?? { row: state.row, column: state.column }));
  const reveal = () => panels.forEach((panel) => panel.reveal());
  const pin = (place) => { Object.assign(state, place); show(null); reveal(); };
  // One scale for both measures, or they could not be compared.
  const most = Math.max(...maps.map(largestShare)) || 1;
  panels.push(...maps.map((map) => influencePanel(map, sequence, most, show, pin)));
  show(null);
  requestAnimationFrame(reveal); // once they have a place
  return [make("div", { class: "columns" }, panels.map((panel) => panel.element))];
}

function largestColumn(map, row) {
  return range(0, map.columns).reduce((best, column) => (map.share(row, column) > map.share(row, best) ? column : best), 0);
}

function largestShare(map) {
  return numbers(map.shares).reduce((most, share) => (share > most ? share : most), 0);
}

function influencePanel(map, sequence, most, show, pin) {
  const outputName = (row) => (map.output_positions.length ? tokenAt(sequence, map.output_positions[row]) : "the answer");
  const inputName = (column) => tokenAt(sequence, map.input_positions[column]);
  const partAt = (row, column) => (map.hidden(row, column) ? NaN : map.share(row, column) / most);
  const columnOf = new Map(map.input_positions.map((position, column) => [position, column]));
  let place = { row: 0, column: 0 };
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const heading = make("h3");
  const strongest = make("div");
  const picture = map.rows > 1 ? matrix(
    { rows: range(0, map.rows).map(outputName), columns: range(0, map.columns).map(inputName), partAt, hatchedAt: map.hidden },
    { name: `${map.about?.name ?? map.measure}: each row is an output position, each column an input position`,
      room: roomOf(0.5), chosen: () => place, onpoint: show, onpin: pin }) : null;
  const text = words(sequence, {
    name: `Tokens by ${map.measure}`,
    chosen: () => map.input_positions[place.column],
    canPick: (position) => columnOf.has(position),
    onpick: (position) => pin({ row: place.row, column: columnOf.get(position) }),
    colouring: (position) => {
      const column = columnOf.get(position);
      if (column === undefined) return { part: NaN, text: `${position}: not asked for` };
      const hatched = map.hidden(place.row, column);
      return { part: partAt(place.row, column), hatched, text: `${position}: ${hatched ? "below the floor" : shown(map.share(place.row, column))}` };
    },
  });
  const showHere = (at) => {
    place = at;
    picture?.show(at);
    text.update();
    heading.replaceChildren("In the text, for ", ...(map.output_positions.length
      ? ["output ", quoted(outputName(at.row)), ` (${map.output_positions[at.row]})`] : ["the answer"]));
    readout.replaceChildren(...influenceSentence(map, at, outputName, inputName));
    strongest.replaceChildren(strongestShares(map, at.row, inputName));
  };
  const element = make("section", { class: "panel" }, make("h2", {}, map.about?.name ?? map.measure),
    make("p", { class: "hint" }, map.about?.means ?? "", ` Method: ${METHODS[map.method] ?? map.method}.`),
    picture ? [picture.element] : [], readout, legend("share 0", shown(most, 3)), heading, text.element, strongest);
  return { element, show: showHere, reveal: () => { picture?.reveal(); text.reveal(); } };
}

function influenceSentence(map, { row, column }, outputName, inputName) {
  const input = [quoted(inputName(column)), ` (${map.input_positions[column]})`];
  const output = map.output_positions.length ? ["the output at ", quoted(outputName(row)), ` (${map.output_positions[row]})`] : ["the answer"];
  if (map.hidden(row, column)) return [...input, " for ", ...output, `: below the floor of ${magnitude(map.floor(row))}, not known.`];
  return [...input, " for ", ...output, ": share ", make("b", {}, shown(map.share(row, column))),
    `, value ${magnitude(map.value(row, column))}, floor ${magnitude(map.floor(row))}.`];
}

function strongestShares(map, row, inputName) {
  const entries = range(0, map.columns).filter((column) => !map.hidden(row, column))
    .sort((a, b) => map.share(row, b) - map.share(row, a)).slice(0, 5);
  return bars(entries.map((column) => ({ text: inputName(column), place: map.input_positions[column], part: map.share(row, column),
    number: shown(map.share(row, column)) })), entries.length ? map.share(row, entries[0]) : 1);
}
