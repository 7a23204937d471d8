// Elements made of texts: nothing that came from outside is ever read as markup.

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  setAll(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function setAll(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
}

const SVG = "http://www.w3.org/2000/svg";

function makeSvg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

// A token stands apart from the direction of what is around it.
const token = (text) => make("bdi", {}, text);
const quoted = (text) => make("b", {}, "“", token(text), "”");

function labelled(text, control) {
  return make("label", { class: "field" }, make("span", {}, text), control);
}

// options: [[value, text], ...]
function select(options, chosen, onchange) {
  const list = make("select", { onchange: () => onchange(list.value) },
    options.map(([value, text]) => make("option", { value, selected: String(value) === String(chosen) }, text)));
  return list;
}

let groups = 0;

// A few alternatives beside each other; arrow keys move between them.
function choices(name, options, chosen, onchange) {
  const group = `group-${groups++}`;
  const buttons = make("div", { class: "choices", role: "radiogroup", "aria-label": name },
    options.map(([value, text]) => make("label", {},
      make("input", { type: "radio", name: group, value, checked: value === chosen, onchange: () => onchange(value) }),
      make("span", {}, text))));
  return make("div", { class: "field" }, make("span", { "aria-hidden": "true" }, name), buttons);
}

function legend(start, end, extra = []) {
  const bar = make("canvas", { "aria-hidden": "true" });
  drawScale(bar);
  return make("div", { class: "legend" }, make("span", {}, start), bar, make("span", {}, end), extra);
}

function swatch(kind, text) {
  return make("span", { class: "legend" }, make("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text);
}

// The largest of some numbers by place, as bars that can be read out.
function bars(entries, largest) {
  return make("ol", { class: "bars" }, entries.map(({ text, place, part, number }) => {
    const bar = make("div", { class: "bar" });
    bar.style.width = `${Math.max(0, 100 * (part / (largest || 1)))}%`;
    return make("li", {}, make("span", { class: "what" }, token(text), ` (${place})`), make("div", { "aria-hidden": "true" }, bar),
      make("span", { class: "number" }, number));
  }));
}
