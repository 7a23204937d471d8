// A sequence as running text whose tokens are coloured by a number each.

// colouring(position): {part: 0 to 1 or NaN, hatched, text: what it says}
function words(sequence, { colouring, chosen, onpick, canPick = () => true, name }) {
  const count = DATA.sequences[sequence].length;
  const elements = range(0, count).map((position) =>
    make("button", { type: "button", class: "word", onclick: () => canPick(position) && onpick(position) },
      tokenAt(sequence, position)));
  const update = () => elements.forEach((element, position) => {
    const { part, hatched, text } = colouring(position);
    paintWord(element, part, hatched);
    element.setAttribute("aria-pressed", String(position === chosen()));
    element.setAttribute("aria-disabled", String(!canPick(position)));
    element.title = text;
  });
  update();
  const element = make("div", { class: "words", dir: "auto", role: "group", "aria-label": name }, elements);
  return { element, update, reveal: () => revealWord(element, elements[chosen()]) };
}

// Only within its own box: the page stays where it is.
function revealWord(element, word) {
  if (!word) return;
  const [box, inner] = [element.getBoundingClientRect(), word.getBoundingClientRect()];
  if (inner.top < box.top) element.scrollTop -= box.top - inner.top + 4;
  else if (inner.bottom > box.bottom) element.scrollTop += inner.bottom - box.bottom + 4;
}

function paintWord(element, part, hatched) {
  element.classList.toggle("hatched", Boolean(hatched));
  const coloured = !hatched && !Number.isNaN(part);
  element.style.background = coloured ? colour(part) : "";
  element.style.color = coloured ? inkOn(part) : "";
}
