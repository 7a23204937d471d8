// One hue whose lightness grows evenly, so that it reads without colour vision and in grey.

const darkMode = window.matchMedia("(prefers-color-scheme: dark)");
const STEPS = 256;
let scale = null; // [red, green, blue] of every step

// OKLCH, in which equal steps look equal (Ottosson 2020), to sRGB.
function srgb(lightness, chroma, hue) {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((x) => {
    const part = Math.min(1, Math.max(0, x));
    return Math.round(255 * (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  });
}

function lightnessAt(part) {
  return darkMode.matches ? 0.22 + 0.7 * part : 0.985 - 0.685 * part;
}

// From the panel's own shade to the strongest; chroma is largest in the middle, where sRGB has it.
function makeScale() {
  scale = range(0, STEPS).map((step) => {
    const part = step / (STEPS - 1);
    const chroma = (darkMode.matches ? 0.02 : 0.006) + 0.16 * Math.sin(Math.PI * Math.min(1, 0.08 + part * 0.84)) * part ** 0.45;
    return srgb(lightnessAt(part), chroma, 256);
  });
}

makeScale();

const stepOf = (part) => Math.max(0, Math.min(STEPS - 1, Math.round(part * (STEPS - 1))));
const colour = (part) => `rgb(${scale[stepOf(part)].join(" ")})`;

// Black or white, whichever is read better on a colour of the scale.
function inkOn(part) {
  return lightnessAt(part) > 0.62 ? "#10131a" : "#ffffff";
}

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What is drawn on a canvas does not follow the style by itself.
function onThemeChange(redraw) {
  darkMode.addEventListener("change", () => {
    makeScale();
    redraw();
  });
}

function drawScale(canvas) {
  canvas.width = STEPS;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  scale.forEach((_, step) => {
    context.fillStyle = colour(step / (STEPS - 1));
    context.fillRect(step, 0, 1, 1);
  });
}
