// Influence by distance, over all sequences.

function distancePanels(summaries) {
  if (!summaries.length) return [];
  return [make("div", { class: "panel" }, make("h2", {}, "By distance, over all sequences"),
    make("p", { class: "hint wide" }, "Distance from output to input position. Shares are means over all pairs at that distance; "
      + "values are geometric means of those above the floor, with a gap where none is. A rate fitted through them would say more than is known.")),
  make("div", { class: "columns" }, summaries.map(distancePanel))];
}

function distancePanel(summary) {
  const { distances } = summary;
  const [shares, values] = [numbers(summary.mean_share), numbers(summary.mean_value)];
  const [counts, hidden, steps] = [numbers(summary.counts), numbers(summary.below_floor), numbers(summary.sequential_steps)];
  let chosen = 0;
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const show = (place) => {
    chosen = place;
    for (const one of charts) one.show(place);
    readout.replaceChildren(`Distance ${distances[place]}: mean share `, make("b", {}, shown(shares[place])),
      `, mean value ${magnitude(values[place])}, ${counts[place]} pairs, ${hidden[place]} of them below the floor, `
      + `${steps[place]} sequential steps.`);
  };
  const plain = { places: distances.length, nameAt: (place) => `distance ${distances[place]}`, onpoint: show, chosen: () => chosen, dots: true };
  const known = Array.from(values).filter((value) => value > 0);
  const charts = [chart({ ...plain, label: "Mean share by distance", least: 0, most: Math.max(...shares, 0) || 1, lines: [{ kind: "", values: shares }] })];
  if (known.length) {
    charts.push(chart({ ...plain, label: "Mean value by distance, logarithmic", logarithmic: true,
      least: 10 ** Math.floor(Math.log10(Math.min(...known))), most: 10 ** Math.ceil(Math.log10(Math.max(...known)) + 1e-9),
      lines: [{ kind: "", values }] }));
  }
  show(0);
  return make("section", { class: "panel" }, make("h2", {}, MEASURES[summary.measure]?.name ?? summary.measure),
    make("h3", {}, "Mean share"), charts[0].element,
    charts[1] ? [make("h3", {}, "Mean value, logarithmic"), charts[1].element] : [], readout);
}
