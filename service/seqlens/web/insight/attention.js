// Attention maps: all heads of a layer, one of them in full, and what a token looks at.

const attentionState = { layer: 0, head: 0, colours: "largest", direction: "from", row: null, column: null };

function layersOf(sequence) {
  return DATA.attention.layers.flatMap(({ site, maps }) =>
    maps.filter((map) => map.sequence === sequence).map((map) => ({ site, map })));
}

function attentionView(sequence) {
  const state = attentionState;
  const layers = layersOf(sequence);
  if (!layers.length) return make("p", { class: "panel" }, "No attention maps of this sequence are here.");
  state.layer = Math.min(state.layer, layers.length - 1);
  const [about, tiles, detail] = [make("div"), make("div"), make("div")];
  const redraw = () => {
    const view = viewOf(layers[state.layer], sequence);
    about.replaceChildren(...proofOf(view.site));
    state.head = Math.min(state.head, view.heads.length - 1);
    const redrawDetail = () => detail.replaceChildren(...headDetail(view));
    tiles.replaceChildren(...headTiles(view, redrawDetail));
    redrawDetail();
  };
  redraw();
  const options = layers.map(({ site }, i) => [i, siteName(site)]);
  return make("div", {},
    make("div", { class: "panel" },
      make("div", { class: "controls" },
        labelled("Layer", select(options, state.layer, (value) => { state.layer = Number(value); redraw(); })),
        choices("Colours reach from 0 to", [["largest", "the head's largest weight"], ["one", "1"]], state.colours,
          (value) => { state.colours = value; redraw(); })),
      about, tiles),
    detail);
}

const siteName = (site) =>
  site.name === "rollout" ? "Rollout through all chosen layers" : `Layer ${site.layer} · ${site.kind} · ${site.name}`;

// What all parts of the picture of one map ask for.
function viewOf({ site, map }, sequence) {
  const [queries, keys] = [queriesOf(map), keysOf(map)];
  const weights = headsOf(map);
  const names = map.heads.length ? map.heads.map((head) => `Head ${head}`) : ["All heads in one"];
  const heads = weights.map((values, i) => ({ name: names[i], values, figures: figuresOf(map.measures, i) }));
  if (heads.length > 1 && !map.key_positions) heads.unshift({ name: "Mean", mean: true, values: meanOf(weights), figures: [] });
  for (const head of heads) head.largest = head.values.reduce((most, value) => (value > most ? value : most), 0);
  return { site, map, sequence, queries, keys, heads,
    queryName: (row) => (asksByToken(site, queries, keys) ? tokenAt(sequence, queries[row]) : `#${queries[row]}`),
    keyName: (column) => tokenAt(sequence, keys[column]) };
}

// Of other kinds the queries are not the positions of the text: those of a decoder, or just one.
function asksByToken(site, queries, keys) {
  return site.kind === "self" || site.name === "rollout" || (site.kind === "unknown" && queries.length === keys.length);
}

function meanOf(heads) {
  return Float32Array.from(heads[0], (_, i) => heads.reduce((sum, head) => sum + head[i], 0) / heads.length);
}

function figuresOf(measures, head) {
  if (!measures) return [];
  const share = numbers(measures.share)?.[head];
  return [`entropy ${shown(numbers(measures.entropy)[head], 2)}`, `distance ${shown(numbers(measures.mean_distance)[head], 1)}`,
    ...(share === undefined ? [] : [`share ${shown(share, 2)}`])];
}

const top = (view, head) => (attentionState.colours === "one" ? 1 : head.largest || 1);

function headTiles(view, onchange) {
  const { heads, queries, keys, map } = view;
  const tiles = heads.map((head, i) => {
    const picture = thumbnail(queries.length, keys.length, (row, column) => head.values[row * keys.length + column] / top(view, head));
    return make("label", { class: "tile" },
      make("input", { type: "radio", name: "head", value: i, checked: i === attentionState.head,
        onchange: () => { attentionState.head = i; onchange(); } }),
      picture, make("span", { class: "name" }, head.name),
      head.figures.map((figure) => make("span", { class: "figures" }, figure)));
  });
  const patterns = map.measures && map.heads.length > 1
    ? make("p", { class: "hint" }, `The ${map.heads.length} heads show ${shown(map.measures.patterns, 1)} different patterns. `,
      "Entropy is in parts of the largest possible (0: one key, 1: all alike), distance in positions.") : null;
  return [make("fieldset", { class: "tiles" }, make("legend", { class: "hidden" }, "Head"), tiles), patterns].filter(Boolean);
}

function headDetail(view) {
  const { heads, queries, keys } = view;
  const state = attentionState;
  const head = heads[state.head];
  state.row = Math.min(state.row ?? queries.length - 1, queries.length - 1);
  state.column ??= head.values.subarray(state.row * keys.length, (state.row + 1) * keys.length)
    .reduce((best, value, i, row) => (value > (row[best] || 0) ? i : best), 0);
  state.column = Math.min(state.column, keys.length - 1);
  let place = { row: state.row, column: state.column };
  const weight = (row, column) => head.values[row * keys.length + column];
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const strongest = make("div");
  const text = textView(view, weight, () => place, (row, column) => pin({ row, column }));
  const show = (at) => {
    place = at ?? { row: state.row, column: state.column };
    readout.replaceChildren(...sentenceOf(view, head, place, weight(place.row, place.column)));
    strongest.replaceChildren(...strongestOf(view, place, weight));
    picture.show(place);
    text.update();
  };
  const reveal = () => { picture.reveal(); text.reveal(); };
  const pin = (at) => { [state.row, state.column] = [at.row, at.column]; show(null); reveal(); };
  const picture = matrix(
    { rows: queries.map((_, i) => view.queryName(i)), columns: keys.map((_, i) => view.keyName(i)),
      partAt: (row, column) => weight(row, column) / top(view, head) },
    { name: `${head.name}: each row is a query, each column a key`, room: roomOf(0.57),
      chosen: () => ({ row: state.row, column: state.column }), onpoint: show, onpin: pin });
  show(null);
  requestAnimationFrame(reveal); // once it has a place
  const absent = view.map.key_positions ? swatch("", "empty: not among the largest weights that were asked for") : [];
  return [make("div", { class: "main-and-side" },
    make("section", { class: "panel" }, make("h2", {}, head.name),
      make("p", { class: "hint" }, "Each row is a query and adds up to 1 over all keys; each column is a key that it looks at.",
        head.mean ? ` The mean over the ${heads.length - 1} heads here, made on this page.` : ""),
      picture.element, readout, legend("0", shown(top(view, head)), absent)),
    make("section", { class: "panel" }, make("h2", {}, "In the text"), text.controls, text.element, strongest))];
}

function sentenceOf(view, head, { row, column }, weight) {
  const number = Number.isNaN(weight) ? "a weight that was not asked for" : make("b", {}, shown(weight, 5));
  return [quoted(view.queryName(row)), ` (${view.queries[row]}) looks at `, quoted(view.keyName(column)),
    ` (${view.keys[column]}) with `, number, "."];
}

// Coloured by what the chosen token looks at, or by how much every other token looks at it.
function textView(view, weight, place, onpick) {
  const state = attentionState;
  const byToken = asksByToken(view.site, view.queries, view.keys);
  const [firstQuery, firstKey] = [view.queries[0], view.keys[0]];
  const rowOf = (position) => (position - firstQuery in view.queries ? position - firstQuery : -1);
  const columnOf = (position) => (position - firstKey in view.keys ? position - firstKey : -1);
  const from = () => state.direction === "from" || !byToken;
  const chosen = () => (from() ? (byToken ? view.queries[place().row] : -1) : view.keys[place().column]);
  const weightOf = (position) => {
    const [row, column] = from() ? [place().row, columnOf(position)] : [rowOf(position), place().column];
    return row < 0 || column < 0 ? NaN : weight(row, column);
  };
  let most = 1;
  const text = words(view.sequence, {
    name: "Tokens of the sequence", chosen,
    colouring: (position) => {
      const value = weightOf(position);
      return { part: value / most, text: `${position}: ${Number.isNaN(value) ? "no weight" : shown(value, 5)}` };
    },
    canPick: (position) => (from() && byToken ? rowOf(position) : columnOf(position)) >= 0,
    onpick: (position) => (from() && byToken ? onpick(rowOf(position), place().column) : onpick(place().row, columnOf(position))),
  });
  const update = () => {
    const values = range(0, DATA.sequences[view.sequence].length).map(weightOf).filter((value) => value > 0);
    most = state.colours === "one" ? 1 : Math.max(...values, 0) || 1;
    text.update();
  };
  const directions = [["from", "what it looks at"], ["to", "what looks at it"]];
  const controls = byToken
    ? make("div", { class: "controls" }, choices("Click a token; colours show", directions, state.direction,
      (value) => { state.direction = value; update(); }))
    : make("p", { class: "hint" }, "Choose a query in the map; colours show what it looks at.");
  return { ...text, update, controls };
}

function strongestOf(view, { row }, weight) {
  const entries = view.keys.map((position, column) => ({ position, column, value: weight(row, column) }))
    .filter(({ value }) => value > 0).sort((a, b) => b.value - a.value).slice(0, 6);
  return [make("h3", {}, quoted(view.queryName(row)), ` (${view.queries[row]}) looks most at`),
    bars(entries.map(({ position, column, value }) => ({ text: view.keyName(column), place: position, part: value, number: shown(value) })),
      entries[0]?.value)];
}
