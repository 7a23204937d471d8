// How well it is known that the numbers are the model's own.

const ERRORS = {
  row_sum_error: "weights of a query, to a sum of 1",
  padding_weight: "weight on padding",
  repeat_error: "weights, drawn twice",
  output_error: "answers, with and without drawing",
  feedback_error: "answers, when the drawn weights are put back in",
  uniform_movement: "answers, when uniform weights are put in instead (they should move)",
  product_error: "weights times values, to the kernel's own output",
  padded_error: "weights, in a padded batch against alone (if they move, each is drawn alone)",
};

// These say how the weights are drawn, and not how wrong they may be.
const NO_ERRORS = ["uniform_movement", "padding_weight", "padded_error"];

function proofOf(site) {
  const proof = site.proof;
  const [origin, originText] = site.measured
    ? ["measured", "These are the weights that the model itself computes."]
    : ["recomputed", "A fused kernel keeps its weights to itself: these are computed from what it reads."];
  const known = Object.entries(ERRORS).filter(([name]) => Number.isFinite(proof[name]));
  const worst = Math.max(0, ...known.filter(([name]) => !NO_ERRORS.includes(name)).map(([name]) => proof[name]));
  const status = proof.proved
    ? make("span", { class: "badge" }, `✓ proved, errors up to ${magnitude(worst)}`)
    : make("span", { class: "badge warn" }, "! unproved");
  const rows = known.map(([name, text]) => make("tr", {}, make("th", { scope: "row" }, text), make("td", {}, magnitude(proof[name]))));
  return [make("div", { class: "proof" },
    make("p", {}, make("span", { class: site.measured ? "badge" : "badge warn" }, origin), status,
      make("span", { class: "hint" }, originText, proof.reason ? ` Unproved: ${proof.reason}.` : "", site.note ? ` ${site.note}.` : "")),
    make("details", {}, make("summary", {}, `How it was proved: ${site.operator}, ${site.kind}, confidence ${shown(site.confidence, 2)}`),
      make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "largest difference of"), make("th", { scope: "col" }, "measured"))),
        make("tbody", {}, rows)),
      make("p", { class: "hint" }, `Axes of the tensor: ${(proof.axes ?? []).join(", ") || "not found"}.`)))];
}

// Of a quantised model the figures are right, and may be far from those of the model before.
function quantised() {
  return /int8|uint8|int4|uint4|fp8|float8/i.test(DATA.precision ?? "")
    ? make("span", { class: "badge warn" }, `of the quantised model (${DATA.precision}), as it is served`) : null;
}
