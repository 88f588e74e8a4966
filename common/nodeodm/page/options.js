// The engine's options: a list that can be searched, of which only what differs from the default is sent.

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function control(option, id) {
  if (option.type === "bool") {
    return element("input", { id, type: "checkbox", checked: option.value === "true" });
  }
  if (Array.isArray(option.domain)) {
    const select = element("select", { id });
    for (const value of option.domain) {
      select.append(element("option", { value, textContent: value || "(none)", selected: value === option.value }));
    }
    return select;
  }
  const isNumber = option.type === "int" || option.type === "float";
  const made = element("input", { id, type: isNumber ? "number" : "text", value: option.value, autocomplete: "off" });
  if (isNumber) made.step = option.type === "int" ? "1" : "any";
  return made;
}

function helpOf(option) {
  const choices = Array.isArray(option.domain) ? option.domain.filter((each) => each !== "").join(", ") : option.domain;
  const text = option.help.replaceAll("%(default)s", option.value || "none").replaceAll("%(choices)s", choices);
  return text.replaceAll("%%", "%");
}

export class Options {
  #rows = [];

  /** `list` holds the rows, `count` says how many are changed, `shown` how many the search has left. */
  constructor(list, count, shown) {
    this.list = list;
    this.count = count;
    this.shown = shown;
    list.addEventListener("input", () => this.#mark());
  }

  /** Show these, as `/options` tells them. */
  show(options) {
    this.#rows = options.map((option, number) => this.#row(option, `option-${number}`));
    this.list.replaceChildren(...this.#rows.map((each) => each.row));
    this.search("");
    this.#mark();
  }

  #row(option, id) {
    const input = control(option, id);
    const help = element("p", { id: `${id}-help`, className: "help", textContent: helpOf(option) });
    input.setAttribute("aria-describedby", help.id);
    const row = element("div", { className: "option" });
    row.append(element("label", { htmlFor: id, textContent: option.name }), input, help);
    const read = () => (input.type === "checkbox" ? String(input.checked) : input.value);
    const initial = read();
    const reset = () => {
      if (input.type === "checkbox") input.checked = initial === "true";
      else input.value = initial;
    };
    return { row, option, read, initial, reset, text: `${option.name} ${help.textContent}`.toLowerCase() };
  }

  search(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const { row, text } of this.#rows) {
      row.hidden = !wanted.every((word) => text.includes(word));
      if (!row.hidden) left += 1;
    }
    this.shown.textContent = wanted.length ? `${left} of ${this.#rows.length} options` : `${left} options`;
  }

  reset() {
    for (const { reset } of this.#rows) reset();
    this.#mark();
  }

  /** As `/task/new/init` takes them. An emptied field means the default. */
  get changed() {
    return this.#rows
      .filter((each) => each.read() !== each.initial && (each.read() !== "" || each.option.type === "enum"))
      .map(({ option, read }) => ({ name: option.name, value: option.type === "bool" ? read() === "true" : read() }));
  }

  #mark() {
    const changed = new Set(this.changed.map((each) => each.name));
    for (const { row, option } of this.#rows) row.classList.toggle("changed", changed.has(option.name));
    this.count.textContent = changed.size ? `(${changed.size} changed)` : "(defaults)";
  }
}
