// Puts what the server says has changed in its place, and leaves everything else as it is: focus, what is scrolled, what
// is open.

const parsed = (html) => {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  return template.content.firstElementChild;
};

/** Attributes that belong to the person, not to the server. */
const OWN = new Set(["open"]);

function sameKind(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id ?? "") === (other.id ?? "");
}

/** Makes `old` like `fresh`, element by element, so that what has not changed is not touched. */
function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  // A moment is shown in words of our own: what counts is which moment it is.
  if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !OWN.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !OWN.has(name)) old.setAttribute(name, value);
  }
  const children = [...fresh.childNodes];
  children.forEach((child, place) => {
    const there = old.childNodes[place];
    if (there === undefined) old.append(child);
    else if (sameKind(there, child)) morph(there, child);
    else there.replaceWith(child);
  });
  while (old.childNodes.length > children.length) old.lastChild.remove();
}

function part(id, html) {
  const old = document.getElementById(id);
  const fresh = parsed(html);
  if (old === null) return;
  if (sameKind(old, fresh)) morph(old, fresh);
  else old.replaceWith(fresh);
}

function list(id, { order, children }) {
  const holder = document.getElementById(id);
  const known = new Map([...holder.children].map((child) => [child.id, child]));
  for (const [child, html] of Object.entries(children)) {
    const old = known.get(child);
    if (old === undefined) known.set(child, parsed(html));
    else morph(old, parsed(html));
  }
  if (order === undefined) return;
  const wanted = new Set(order);
  for (const child of [...holder.children]) if (!wanted.has(child.id)) child.remove();
  order.forEach((child, place) => {
    if (holder.children[place]?.id !== child) holder.insertBefore(known.get(child), holder.children[place] ?? null);
  });
}

const MOST_LINES = 5000;

/** Lines that are kept: what scrolls out of a long run is in the product `task_output.txt`. */
function consoleLines(news) {
  const box = document.getElementById("console");
  if (box === null) return;
  const follows = document.getElementById("follow").checked;
  const total = news.from + news.lines.length;
  if (news.anew && Number(box.dataset.total) === total) return;
  let lines = news.anew || !box.textContent ? [] : box.textContent.split("\n");
  lines = [...lines, ...news.lines].slice(-MOST_LINES);
  box.textContent = lines.join("\n");
  box.dataset.total = total;
  if (follows) box.scrollTop = box.scrollHeight;
}

/** Shows what a message of the stream says. */
export function apply(message) {
  for (const [id, html] of Object.entries(message.parts ?? {})) part(id, html);
  for (const [id, told] of Object.entries(message.lists ?? {})) list(id, told);
  if (message.console) consoleLines(message.console);
}

/** The stream of a page's changes; it rests while nobody looks. */
export class Stream {
  #source = null;
  #address;
  #heard;
  #state;

  /** `heard(kind, message)` hears everything, `state(word)` whether the line is up. */
  constructor(address, heard, state) {
    this.#address = address;
    this.#heard = heard;
    this.#state = state;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", () => this.open());
    this.open();
  }

  /** Go on with another address. */
  turnTo(address) {
    this.close();
    this.#address = address;
    this.open();
  }

  open() {
    if (this.#source !== null || document.hidden || this.#address === null) return;
    const source = new EventSource(this.#address);
    this.#source = source;
    source.onopen = () => this.#state("live");
    source.onerror = () => {
      this.#state("lost");
      // The browser tries again by itself, unless the answer was none of a stream.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.close();
        setTimeout(() => this.open(), 3000);
      }
    };
    for (const kind of ["message", "trouble", "gone", "over"]) {
      source.addEventListener(kind, (event) => {
        if (event.data !== undefined && source === this.#source) this.#heard(kind, JSON.parse(event.data));
      });
    }
  }

  close() {
    this.#source?.close();
    this.#source = null;
  }

  /** For good. */
  end() {
    this.#address = null;
    this.close();
  }
}
