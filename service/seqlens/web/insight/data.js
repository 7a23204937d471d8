// What the page shows: JSON, with arrays in base64 that are unpacked when they are needed.

const DATA = JSON.parse(document.getElementById("data").textContent);

const KINDS = { uint16: Uint16Array, float32: Float32Array, int32: Int32Array };
const unpacked = new WeakMap();

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Numbers of a packed array, row by row; a list stands for itself.
function numbers(packed) {
  if (packed === undefined || packed === null || Array.isArray(packed)) return packed;
  if (!unpacked.has(packed)) {
    const kind = Object.keys(KINDS).find((name) => name in packed);
    unpacked.set(packed, new KINDS[kind](bytesOf(packed[kind]).buffer));
  }
  return unpacked.get(packed);
}

const NO_WEIGHT = 65535;
const LEVELS = 65534;

// Weights of all heads as [heads][queries * keys]; NaN where there is none.
function headsOf(map) {
  if (!unpacked.has(map)) unpacked.set(map, map.key_positions ? spread(map) : plainHeads(map));
  return unpacked.get(map);
}

function weightAt(map, index) {
  const level = numbers(map.weights)[index];
  return level === NO_WEIGHT ? NaN : (level / LEVELS) * map.weights.largest;
}

function plainHeads(map) {
  const [heads, rows, columns] = map.weights.shape;
  const size = rows * columns;
  return Array.from({ length: heads }, (_, head) =>
    Float32Array.from({ length: size }, (_, i) => weightAt(map, head * size + i)));
}

// Only the largest weights of each query came, with the positions of their keys.
function spread(map) {
  const [heads, rows, most] = map.weights.shape;
  const positions = numbers(map.key_positions);
  const columns = keysOf(map).length;
  return Array.from({ length: heads }, (_, head) => {
    const weights = new Float32Array(rows * columns).fill(NaN);
    for (let i = 0; i < rows * most; i++) {
      const at = head * rows * most + i;
      const column = positions[at] - map.key_start;
      if (column >= 0) weights[Math.floor(i / most) * columns + column] = weightAt(map, at);
    }
    return weights;
  });
}

const range = (start, count) => Array.from({ length: count }, (_, i) => start + i);

const queriesOf = (map) => range(map.query_start, map.weights.shape[1]);

function keysOf(map) {
  if (!map.key_positions) return range(map.key_start, map.weights.shape[2]);
  let last = map.key_start;
  for (const position of numbers(map.key_positions)) last = Math.max(last, position);
  const length = DATA.sequences[map.sequence].length;
  return range(map.key_start, Math.max(last + 1, length) - map.key_start);
}

const CONTROL = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// A token as it can be seen: white space and what steers text are shown as signs.
function visible(text) {
  if (text === "") return "∅";
  const seen = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(CONTROL, (sign) =>
    `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  return seen.trim() === "" ? "␣".repeat(seen.length) : seen;
}

function tokenAt(sequence, position) {
  const tokens = DATA.sequences[sequence].tokens ?? [];
  return position < tokens.length ? visible(tokens[position]) : `#${position}`;
}

// Some weights are very small, and none of them is nothing.
function shown(number, digits = 4) {
  if (!Number.isFinite(number)) return "not known";
  if (number === 0) return "0";
  const least = 10 ** -digits;
  if (Math.abs(number) < least / 2) return Math.abs(number) < 1e-4 ? number.toExponential(1) : `< ${least}`;
  return number.toFixed(digits);
}

function magnitude(number) {
  if (number === undefined || number === null) return "not measured";
  if (!Number.isFinite(number)) return "not known";
  if (number === 0) return "0";
  const size = Math.abs(number);
  return size >= 0.01 && size < 10000 ? String(Number(number.toPrecision(3))) : number.toExponential(1);
}
