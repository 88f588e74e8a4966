// Moments in the reader's own time, and how long ago they were, by the server's clock.

let ahead = 0;
const MONTHS = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** The server's clock, in seconds since the epoch: ours may be wrong. */
export function setNow(seconds) {
  ahead = seconds * 1000 - Date.now();
}

/** A length of time in its two largest units. */
export function lasting(milliseconds) {
  let left = Math.max(0, Math.round(milliseconds / 1000));
  const told = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count || told.length) told.push(count ? `${count} ${unit}` : "");
    if (told.length === 2) break;
  }
  return told.filter(Boolean).join(" ") || "0 s";
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Every moment on the page, as it is now. */
export function showTimes() {
  const now = Date.now() + ahead;
  for (const element of document.querySelectorAll("time")) {
    const at = new Date(element.dateTime);
    if ("ago" in element.dataset) say(element, `${lasting(now - at)} ago`);
    else if ("for" in element.dataset) say(element, lasting(now - at));
    else say(element, WHOLE.format(at));
    if (!element.title) element.title = WHOLE.format(at);
  }
  for (const element of document.querySelectorAll("[data-clock]")) say(element, CLOCK.format(new Date(element.dataset.clock)));
  for (const element of document.querySelectorAll("[data-day]")) say(element, MONTHS.format(new Date(element.dataset.day)));
}
