// The page as a whole: what was asked of which model, and a part for each kind of answer.

const PARTS = { attention: ["Attention", attentionView], influence: ["Influence", influenceView], gates: ["Gates", gatesView] };
const page = document.getElementById("page");
const shownParts = Object.keys(PARTS).filter((name) => DATA[name]);
const pageState = { sequence: Math.max(0, DATA.sequences.findIndex((one) => !one.error)), part: shownParts[0] };

function summaryOf(sequence, index) {
  if (sequence.error) return `${index}: not looked at`;
  const text = (sequence.tokens ?? []).slice(0, 9).map(visible).join(" ");
  return `${index}: ${text || "no text"}${(sequence.tokens ?? []).length > 9 ? " …" : ""} (${sequence.length} positions)`;
}

function header() {
  const chips = [`version ${DATA.version}`, DATA.architecture, DATA.precision, DATA.id && `request ${DATA.id}`];
  return make("header", {}, make("div", { class: "top" }, make("h1", {}, token(DATA.model)),
    chips.filter(Boolean).map((text) => make("span", { class: "chip" }, token(text))), quantised()));
}

function sequenceChoice() {
  if (DATA.sequences.length < 2) return [];
  const options = DATA.sequences.map((sequence, i) => [i, summaryOf(sequence, i)]);
  return [make("div", { class: "controls" }, labelled("Sequence",
    select(options, pageState.sequence, (value) => { pageState.sequence = Number(value); draw(); })))];
}

function tabs(body) {
  if (shownParts.length < 2) return [];
  const buttons = shownParts.map((name) => make("button", { role: "tab", type: "button", id: `tab-${name}`, "aria-controls": "part",
    onclick: () => choose(name) }, PARTS[name][0]));
  const choose = (name) => { pageState.part = name; mark(); drawPart(body); };
  const mark = () => buttons.forEach((button, i) => {
    button.setAttribute("aria-selected", String(shownParts[i] === pageState.part));
    button.tabIndex = shownParts[i] === pageState.part ? 0 : -1;
  });
  mark();
  const list = make("div", { role: "tablist", onkeydown: (event) => {
    const move = MOVES[event.key]?.[1];
    if (!Number.isFinite(move) || !move) return;
    const next = (shownParts.indexOf(pageState.part) + move + shownParts.length) % shownParts.length;
    choose(shownParts[next]);
    buttons[next].focus();
  } }, buttons);
  return [list];
}

function drawPart(body) {
  const { error } = DATA.sequences[pageState.sequence] ?? {};
  body.replaceChildren(error ? make("p", { class: "panel" }, make("span", { class: "badge warn" }, error.code), " ", token(error.message))
    : PARTS[pageState.part][1](pageState.sequence));
}

function draw() {
  const body = make("div", { id: "part" });
  page.replaceChildren(header(), ...sequenceChoice(), ...tabs(body), body);
  if (!DATA.sequences.length || !pageState.part) body.append(make("p", { class: "panel" }, "There is nothing to show."));
  else drawPart(body);
}

draw();
onThemeChange(draw);
