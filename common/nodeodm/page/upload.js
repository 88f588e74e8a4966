// The files of one task on their way: several at once, each tried again when it did not arrive.

import { Refused } from "./api.js";

const AT_ONCE = 6; // what browsers open to one server
const WAITS_S = [1, 2, 4, 8, 15];

export class Upload {
  #api;
  #stopping = new AbortController();
  uuid = null;

  /** `entries`: objects with `file`, to which `sent`, `state` and `error` are added; `told` hears of each change. */
  constructor(api, entries, told) {
    this.#api = api;
    this.entries = entries;
    this.told = told;
    // The same files may have been part of an upload that was given up: nothing of that is there for this one.
    for (const entry of entries) Object.assign(entry, { state: "waiting", sent: 0, error: "" });
  }

  get bytes() {
    return this.entries.reduce((sum, each) => sum + each.file.size, 0);
  }

  get sent() {
    return this.entries.reduce((sum, each) => sum + (each.sent ?? 0), 0);
  }

  get failed() {
    return this.entries.filter((each) => each.state === "failed");
  }

  get done() {
    return this.entries.filter((each) => each.state === "done").length;
  }

  stop() {
    this.#stopping.abort(new DOMException("The upload was canceled.", "AbortError"));
  }

  /** Announce the task, of which `fields` tell. */
  async begin(fields) {
    const { uuid } = await this.#api.post("task/new/init", fields, this.#stopping.signal);
    this.uuid = uuid;
  }

  /** Send everything that is not there yet; true when nothing is missing any more. */
  async run() {
    const waiting = this.entries.filter((each) => each.state !== "done");
    for (const entry of waiting) this.#change(entry, "waiting", 0);
    const work = async () => {
      for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) await this.#deliver(entry);
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, waiting.length) }, work));
    this.#stopping.signal.throwIfAborted();
    return this.failed.length === 0;
  }

  #change(entry, state, sent, error = "") {
    Object.assign(entry, { state, sent, error });
    this.told(entry);
  }

  async #deliver(entry) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        this.#change(entry, "sending", 0);
        await this.#api.send(this.uuid, entry.file, (sent) => this.#change(entry, "sending", sent), this.#stopping.signal);
        this.#change(entry, "done", entry.file.size);
        return;
      } catch (error) {
        if (this.#stopping.signal.aborted) throw this.#stopping.signal.reason;
        const isFinal = error instanceof Refused || attempt >= WAITS_S.length;
        this.#change(entry, isFinal ? "failed" : "waiting", 0, error.message);
        if (isFinal) return;
        await this.#pause(WAITS_S[attempt] * 1000);
      }
    }
  }

  #pause(milliseconds) {
    const signal = this.#stopping.signal;
    return new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener("abort", stop);
        resolve();
      }, milliseconds);
      signal.addEventListener("abort", stop, { once: true });
    });
  }
}
