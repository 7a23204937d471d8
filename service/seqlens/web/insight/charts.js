// Lines over positions, with bands, a cursor that charts can share, and figures beside the axes.

const CHART = { width: 600, height: 200, left: 52, right: 14, top: 12, bottom: 28 };

// lines: [{kind, values}], bands: [{low, high}], places: number of positions
function chart({ lines, bands = [], places, least, most, logarithmic = false, label, nameAt, onpoint, chosen, dots = false }) {
  const { width, height, left, right, top, bottom } = CHART;
  const measure = logarithmic ? (value) => Math.log10(value) : (value) => value;
  const [low, high] = [measure(least), measure(most)];
  const x = (place) => left + ((place + 0.5) / places) * (width - left - right);
  const y = (value) => top + (1 - (Math.min(high, Math.max(low, measure(value))) - low) / (high - low || 1)) * (height - top - bottom);
  const root = makeSvg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application",
    "aria-roledescription": "chart", "aria-label": `${label}. Left and right move along it.` });
  const marks = ticks(low, high).map((mark) => [logarithmic ? 10 ** mark : mark, logarithmic]);
  for (const [value, power] of marks) {
    root.append(makeSvg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      makeSvg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, power ? value.toExponential(0) : String(value)));
  }
  for (const { low: from, high: to } of bands) root.append(makeSvg("path", { class: "band", d: bandPath(from, to, x, y) }));
  for (const { kind, values } of lines) {
    root.append(makeSvg("path", { class: `line ${kind}`, d: linePath(values, x, y) }));
    if (dots || places === 1) root.append(...dotsOf(values, x, y));
  }
  const cursor = makeSvg("line", { class: "cursor", x1: 0, x2: 0, y1: top, y2: height - bottom });
  const now = makeSvg("text", { class: "now", y: height - 8, "text-anchor": "middle" });
  root.append(cursor, now);
  const show = (place) => {
    const at = x(place);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    now.setAttribute("x", Math.min(width - 40, Math.max(left + 10, at)));
    now.textContent = nameAt(place);
  };
  const placeOf = (event) => {
    const box = root.getBoundingClientRect();
    const part = (((event.clientX - box.left) / box.width) * width - left) / (width - left - right);
    return Math.max(0, Math.min(places - 1, Math.floor(part * places)));
  };
  root.addEventListener("pointermove", (event) => onpoint(placeOf(event)));
  root.addEventListener("keydown", (event) => {
    const move = MOVES[event.key]?.[1];
    if (!move) return;
    event.preventDefault();
    onpoint(Math.max(0, Math.min(places - 1, chosen() + move)));
  });
  show(chosen());
  return { element: root, show };
}

// Round values from low to high, about four of them.
function ticks(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.99);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) {
    found.push(Number(value.toPrecision(10)));
  }
  return found;
}

// A gap where nothing is known.
function linePath(values, x, y) {
  let path = "";
  let pen = false;
  values.forEach((value, place) => {
    if (Number.isFinite(value)) path += `${pen ? "L" : "M"}${x(place).toFixed(2)} ${y(value).toFixed(2)}`;
    pen = Number.isFinite(value);
  });
  return path;
}

function dotsOf(values, x, y) {
  return Array.from(values, (value, place) => [value, place]).filter(([value]) => Number.isFinite(value))
    .map(([value, place]) => makeSvg("circle", { class: "dot", cx: x(place), cy: y(value), r: 2.4 }));
}

function bandPath(low, high, x, y) {
  const there = Array.from(high, (value, place) => `${x(place).toFixed(2)} ${y(value).toFixed(2)}`);
  const back = Array.from(low, (value, place) => `${x(place).toFixed(2)} ${y(value).toFixed(2)}`).reverse();
  return `M${[...there, ...back].join("L")}Z`;
}
