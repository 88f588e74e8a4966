// The tasks of this token: how each stands, its console, its products.

import { Refused } from "./api.js";

const POLL_MS = 2000;
const LIST_EVERY = 15; // polls
const AT_A_TIME = 20;
const MOST_LINES = 5000;
const STATES = { 10: "Waiting", 20: "Running", 30: "Failed", 40: "Completed", 50: "Canceled" };
const ENDED = new Set([30, 40, 50]);

function duration(milliseconds) {
  const seconds = Math.round(milliseconds / 1000);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

/** One task, as a list item. */
class Task {
  #api;
  #lines = [];
  #held = 0;

  constructor(api, uuid, template, { failed, refused, gone }) {
    this.#api = api;
    this.uuid = uuid;
    this.item = template.content.firstElementChild.cloneNode(true);
    this.failed = failed;
    this.refused = refused;
    this.gone = gone;
    const find = (selector) => this.item.querySelector(selector);
    this.parts = {
      title: find("h3"), state: find(".state"), facts: find(".facts"), error: find(".error"),
      progress: find("progress"), download: find(".download"), cancel: find(".cancel"), remove: find(".remove"),
      console: find(".console"), lines: find("pre"),
    };
    this.parts.title.id = `title-${uuid}`;
    this.item.setAttribute("aria-labelledby", this.parts.title.id);
    this.parts.cancel.addEventListener("click", () => this.#act("cancel", "End this task?"));
    this.parts.remove.addEventListener("click", () => this.#act("remove", "Remove this task and forget it?"));
    this.parts.console.addEventListener("toggle", () => this.look());
  }

  get hasEnded() {
    return this.info !== undefined && ENDED.has(this.info.status.code);
  }

  /** Ask how it stands. A task that nobody knows any more leaves the list. */
  async look() {
    const wantsLines = this.parts.console.open;
    try {
      const info = await this.#api.get(`task/${this.uuid}/info`, wantsLines ? { with_output: this.#held } : {});
      if (this.info !== undefined && info.dateCreated !== this.info.dateCreated) this.#forgetLines();
      else if (wantsLines) this.#append(info.output ?? []);
      this.info = info;
      this.#show();
      this.failed(null);
    } catch (error) {
      if (error instanceof Refused) this.gone(this);
      else this.failed(error);
    }
  }

  #forgetLines() {
    this.#lines = [];
    this.#held = 0;
    this.parts.lines.textContent = "";
  }

  #append(lines) {
    if (!lines.length) return;
    const shown = this.parts.lines;
    const isAtEnd = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 30;
    this.#held += lines.length;
    this.#lines = this.#lines.concat(lines).slice(-MOST_LINES);
    shown.textContent = this.#lines.join("\n");
    if (isAtEnd) shown.scrollTop = shown.scrollHeight;
  }

  #show() {
    const { info, parts } = this;
    const { code, errorMessage } = info.status;
    const isPreparing = code === 20 && info.processingTime < 0;
    parts.title.textContent = info.name;
    parts.state.textContent = isPreparing ? "Preparing" : STATES[code];
    parts.state.className = `state ${STATES[code].toLowerCase()}`;
    parts.facts.textContent = [
      `${info.imagesCount} ${info.imagesCount === 1 ? "image" : "images"}`,
      `submitted ${new Date(info.dateCreated).toLocaleString()}`,
      info.processingTime >= 0 ? `${duration(info.processingTime)} of work` : "",
      this.hasEnded ? "" : info.waitingFor ?? "",
    ].filter(Boolean).join(" · ");
    parts.error.textContent = errorMessage ?? "";
    parts.error.hidden = !errorMessage;
    parts.progress.hidden = this.hasEnded;
    parts.progress.value = info.progress;
    parts.progress.setAttribute("aria-label", `Progress of ${info.name}`);
    parts.download.hidden = code !== 40;
    if (code === 40) parts.download.href = this.#api.address(`task/${this.uuid}/download/all.zip`);
    parts.cancel.hidden = this.hasEnded;
    parts.remove.hidden = !this.hasEnded;
    for (const each of ["download", "cancel", "remove"]) {
      parts[each].setAttribute("aria-label", `${parts[each].textContent}: ${info.name}`);
    }
  }

  async #act(what, question) {
    if (!window.confirm(question)) return;
    try {
      await this.#api.act(what, this.uuid);
    } catch (error) {
      this.refused(error);
    }
    await this.look();
  }
}

export class Tasks {
  #api;
  #shown = new Map();
  #wanted = AT_A_TIME;
  #polls = 0;
  #timer;

  /** `parts`: `list`, `template`, `none`, `older`; `failed` hears of trouble with looking, and null
   *  when there is none; `refused` of what was asked for and not done. */
  constructor(api, parts, failed, refused) {
    this.#api = api;
    this.parts = parts;
    this.failed = failed;
    this.refused = refused;
    parts.list.replaceChildren();
    parts.older.onclick = () => {
      this.#wanted += AT_A_TIME;
      this.refresh();
    };
  }

  /** A task of this moment, at the top, its console open. */
  add(uuid) {
    this.#known(uuid, true).parts.console.open = true;
  }

  async start() {
    await this.refresh();
    this.#next();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #next() {
    if (this.#timer === null) return;
    this.#timer = setTimeout(async () => {
      if (!document.hidden) await this.#poll();
      this.#next();
    }, POLL_MS);
  }

  async #poll() {
    this.#polls += 1;
    if (this.#polls % LIST_EVERY === 0) await this.refresh();
    for (const task of this.#shown.values()) if (!task.hasEnded) await task.look();
  }

  /** Read the list again, newest first. */
  async refresh() {
    let uuids;
    try {
      uuids = (await this.#api.get("task/list")).map((each) => each.uuid).reverse();
    } catch (error) {
      this.failed(error);
      return;
    }
    if (this.#timer === null) return;
    this.parts.older.hidden = uuids.length <= this.#wanted;
    const missing = uuids.slice(0, this.#wanted).filter((uuid) => !this.#shown.has(uuid));
    // Oldest first, so that each goes above those before it; older ones below what is there.
    const isFirst = this.#shown.size === 0;
    const newest = uuids.findIndex((uuid) => this.#shown.has(uuid));
    const above = isFirst ? missing : missing.filter((uuid) => uuids.indexOf(uuid) < newest);
    const below = missing.filter((uuid) => !above.includes(uuid));
    const fresh = [...above.reverse().map((uuid) => this.#known(uuid, true)), ...below.map((uuid) => this.#known(uuid, false))];
    this.#count();
    for (const task of fresh) await task.look();
  }

  #known(uuid, isOnTop) {
    let task = this.#shown.get(uuid);
    if (task === undefined) {
      task = new Task(this.#api, uuid, this.parts.template, {
        failed: this.failed,
        refused: this.refused,
        gone: (gone) => {
          this.#shown.delete(gone.uuid);
          gone.item.remove();
          this.#count();
        },
      });
      this.#shown.set(uuid, task);
      if (isOnTop) this.parts.list.prepend(task.item);
      else this.parts.list.append(task.item);
      this.#count();
    }
    return task;
  }

  #count() {
    this.parts.none.hidden = this.#shown.size > 0;
  }
}
