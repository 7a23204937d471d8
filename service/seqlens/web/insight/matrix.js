// A map of cells with names at its sides, to be looked at with a pointer or the arrow keys.

const LABEL_FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif';
const MOST_LABEL = 118; // pixels
const MOST_CANVAS = 6000; // pixels of a side that every browser draws
const measuring = document.createElement("canvas").getContext("2d");

function fitted(text, most = MOST_LABEL) {
  measuring.font = LABEL_FONT;
  if (measuring.measureText(text).width <= most) return text;
  const signs = [...text];
  while (signs.length && measuring.measureText(`${signs.join("")}…`).width > most) signs.pop();
  return `${signs.join("")}…`;
}

function widest(labels) {
  measuring.font = LABEL_FONT;
  return labels.reduce((most, label) => Math.max(most, measuring.measureText(label).width), 0);
}

// grid: {rows, columns: names, partAt(row, column): 0 to 1 or NaN, hatchedAt(row, column)}
function layOut(grid, room) {
  const rows = grid.rows.map((name) => fitted(name));
  const columns = grid.columns.map((name) => fitted(name));
  const left = Math.ceil(widest(rows)) + 12;
  const density = window.devicePixelRatio || 1;
  const most = MOST_CANVAS / density / Math.max(rows.length, columns.length);
  const overhang = Math.ceil(widest(columns.slice(-2)) * 0.7);
  const cell = Math.min(34, most, Math.max(4, Math.floor((room - left - overhang) / columns.length)));
  const slanted = cell >= 18;
  const top = Math.ceil(widest(columns) * (slanted ? 0.78 : 1)) + 14;
  const right = slanted ? overhang : 4;
  return { rows, columns, left, top, cell, slanted, density,
    width: Math.ceil(left + cell * columns.length + right), height: Math.ceil(top + cell * rows.length + 2) };
}

function sized(canvas, plan) {
  canvas.width = Math.round(plan.width * plan.density);
  canvas.height = Math.round(plan.height * plan.density);
  canvas.style.width = `${plan.width}px`;
  canvas.style.height = `${plan.height}px`;
  const context = canvas.getContext("2d");
  context.scale(plan.density, plan.density);
  context.font = LABEL_FONT;
  return context;
}

// One pixel a cell; nothing where there is no value.
function pixels(rows, columns, partAt) {
  const image = document.createElement("canvas");
  image.width = columns;
  image.height = rows;
  const context = image.getContext("2d");
  const data = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const part = partAt(Math.floor(i / columns), i % columns);
    if (Number.isNaN(part)) continue;
    data.data.set(scale[stepOf(part)], 4 * i);
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
  return image;
}

function hatching(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const lines = tile.getContext("2d");
  lines.strokeStyle = themed("--hatch");
  lines.beginPath();
  for (const start of [-6, 0, 6]) {
    lines.moveTo(start, 6);
    lines.lineTo(start + 6, 0);
  }
  lines.stroke();
  return context.createPattern(tile, "repeat");
}

function hatch(context, grid, plan) {
  if (!grid.hatchedAt) return;
  context.fillStyle = hatching(context);
  grid.rows.forEach((_, row) => {
    for (let start = 0; start < plan.columns.length; start++) {
      let stop = start;
      while (stop < plan.columns.length && grid.hatchedAt(row, stop)) stop++;
      if (stop === start) continue;
      const x = plan.left + start * plan.cell;
      context.fillRect(x, plan.top + row * plan.cell, (stop - start) * plan.cell, plan.cell);
      start = stop;
    }
  });
}

function drawName(context, plan, text, place, isRow, behind = null) {
  const middle = (place + 0.5) * plan.cell;
  context.save();
  if (isRow) {
    context.textAlign = "right";
    context.translate(plan.left - 7, plan.top + middle);
  } else {
    context.textAlign = "left";
    context.translate(plan.left + middle, plan.top - 7);
    context.rotate(plan.slanted ? -Math.PI / 4 : -Math.PI / 2);
  }
  context.direction = "ltr"; // of the drawing; the signs of a token keep their own
  context.textBaseline = "middle";
  if (behind) {
    const [ink, width] = [context.fillStyle, context.measureText(text).width];
    context.fillStyle = behind;
    context.fillRect(isRow ? -width - 3 : -3, -8, width + 6, 16);
    context.fillStyle = ink;
  }
  context.fillText(text, 0, 0);
  context.restore();
}

function drawGrid(canvas, grid, plan) {
  const context = sized(canvas, plan);
  const { left, top, cell } = plan;
  const [rows, columns] = [plan.rows.length, plan.columns.length];
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels(rows, columns, grid.partAt), left, top, columns * cell, rows * cell);
  hatch(context, grid, plan);
  context.strokeStyle = themed("--line");
  if (cell >= 12) {
    context.beginPath();
    for (let i = 0; i <= columns; i++) line(context, left + i * cell, top, left + i * cell, top + rows * cell);
    for (let i = 0; i <= rows; i++) line(context, left, top + i * cell, left + columns * cell, top + i * cell);
    context.globalAlpha = 0.55;
    context.stroke();
    context.globalAlpha = 1;
  }
  context.strokeRect(left, top, columns * cell, rows * cell);
  context.fillStyle = themed("--muted");
  const every = Math.ceil(14 / cell); // others would be written over each other
  plan.rows.forEach((name, i) => i % every === 0 && drawName(context, plan, name, i, true));
  plan.columns.forEach((name, i) => i % every === 0 && drawName(context, plan, name, i, false));
}

function line(context, x1, y1, x2, y2) {
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
}

function drawCross(canvas, plan, at) {
  const context = sized(canvas, plan);
  if (!at) return;
  const { left, top, cell } = plan;
  const [x, y] = [left + at.column * cell, top + at.row * cell];
  context.strokeStyle = themed("--accent");
  context.lineWidth = 1.5;
  context.strokeRect(left, y, plan.columns.length * cell, cell);
  context.strokeRect(x, top, cell, plan.rows.length * cell);
  context.lineWidth = 2.5;
  context.strokeStyle = themed("--ink");
  context.strokeRect(x, y, cell, cell);
  context.font = `bold ${LABEL_FONT}`;
  context.fillStyle = themed("--ink");
  drawName(context, plan, plan.rows[at.row], at.row, true, themed("--panel"));
  drawName(context, plan, plan.columns[at.column], at.column, false, themed("--panel"));
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  Home: [0, -Infinity], End: [0, Infinity], PageUp: [-10, 0], PageDown: [10, 0] };

// onpoint(place) while a cell is pointed at, onpin(place) once it is chosen; place: {row, column}
function matrix(grid, { name, room, chosen, onpoint, onpin }) {
  const plan = layOut(grid, room);
  const base = make("canvas", { tabindex: 0, role: "application", "aria-roledescription": "map",
    "aria-label": `${name}. Arrow keys move from cell to cell.` });
  const over = make("canvas", { class: "over", "aria-hidden": "true" });
  const show = (place) => drawCross(over, plan, place);
  const within = (value, count) => Math.max(0, Math.min(count - 1, value));
  const placeOf = (event) => {
    const row = Math.floor((event.offsetY - plan.top) / plan.cell);
    const column = Math.floor((event.offsetX - plan.left) / plan.cell);
    const inside = row >= 0 && column >= 0 && row < plan.rows.length && column < plan.columns.length;
    return inside ? { row, column } : null;
  };
  base.addEventListener("pointermove", (event) => onpoint(placeOf(event)));
  base.addEventListener("pointerleave", () => onpoint(null));
  base.addEventListener("click", (event) => placeOf(event) && onpin(placeOf(event)));
  base.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const at = chosen();
    onpin({ row: within(at.row + move[0], plan.rows.length), column: within(at.column + move[1], plan.columns.length) });
  });
  drawGrid(base, grid, plan);
  show(chosen());
  const element = make("div", { class: "matrix" }, base, over);
  return { element, show, reveal: () => reveal(element, plan, chosen()) };
}

// Pixels across that a panel has inside which takes this part of the page.
function roomOf(part) {
  const width = document.getElementById("page").clientWidth - 72;
  return (width > 830 ? width * part : width) - 44;
}

// Scroll so far that a cell can be seen.
function reveal(element, plan, { row, column }) {
  const ends = [["scrollTop", "clientHeight", plan.top, row], ["scrollLeft", "clientWidth", plan.left, column]];
  for (const [scroll, size, start, place] of ends) {
    const [first, last] = [place * plan.cell, start + (place + 1) * plan.cell + 4];
    if (element[scroll] > first) element[scroll] = first;
    else if (element[scroll] + element[size] < last) element[scroll] = last - element[size];
  }
}

// A small picture of a whole map: of cells that fall on one pixel the largest is shown.
function thumbnail(rows, columns, partAt, most = 128) {
  const step = Math.ceil(Math.max(rows, columns) / most);
  const [height, width] = [Math.ceil(rows / step), Math.ceil(columns / step)];
  const largest = (row, column) => {
    let found = NaN;
    for (let r = row * step; r < Math.min(rows, (row + 1) * step); r++) {
      for (let c = column * step; c < Math.min(columns, (column + 1) * step); c++) {
        const part = partAt(r, c);
        if (!(part <= found)) found = Number.isNaN(part) ? found : part;
      }
    }
    return found;
  };
  const image = pixels(height, width, largest);
  image.setAttribute("aria-hidden", "true");
  return image;
}
