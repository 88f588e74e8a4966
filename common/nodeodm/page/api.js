// The NodeODM API as this page uses it. Addresses are relative: the page may lie behind any path.

/** The server has said no; the text is for people. */
export class Refused extends Error {
  constructor(text, isFinal = false) {
    super(text);
    this.isFinal = isFinal;
  }
}

/** No answer, or none of the API's own: the same request may succeed later. */
export class Unreachable extends Error {
  constructor(text = "The server cannot be reached.") {
    super(text);
  }
}

/** The answer's JSON, or one of the errors above. */
function understood(status, text) {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Unreachable(`The server answered with status ${status}, and not as expected.`);
  }
  if (answer !== null && typeof answer === "object" && "error" in answer) {
    throw new Refused(readable(answer.error), answer.noRetry === true);
  }
  if (status !== 200) throw new Unreachable(`The server answered with status ${status}.`);
  return answer;
}

/** Problems of options come as JSON in a text. */
function readable(error) {
  try {
    return JSON.parse(error).map((each) => `${each.name}: ${each.error}`).join("; ");
  } catch {
    return String(error);
  }
}

export class Api {
  constructor(token) {
    this.token = token;
  }

  address(path, query = {}) {
    const parameters = new URLSearchParams({ ...query, ...(this.token ? { token: this.token } : {}) });
    return parameters.size ? `${path}?${parameters}` : path;
  }

  async #fetched(path, query, request) {
    let answer;
    let text;
    try {
      answer = await fetch(this.address(path, query), { cache: "no-store", ...request });
      text = await answer.text();
    } catch {
      request.signal?.throwIfAborted();
      throw new Unreachable();
    }
    return understood(answer.status, text);
  }

  get(path, query = {}) {
    return this.#fetched(path, query, {});
  }

  /** `fields`: names with texts; `signal` ends it. */
  post(path, fields = {}, signal = undefined) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    return this.#fetched(path, {}, { method: "POST", body, signal });
  }

  /** Cancel or remove: these read forms of the other kind. */
  act(what, uuid) {
    return this.#fetched(`task/${what}`, {}, { method: "POST", body: new URLSearchParams({ uuid }) });
  }

  /** Send one file of an upload; `told` hears how many bytes have gone; `signal` ends it. */
  send(uuid, file, told, signal) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const stop = () => request.abort();
      const settle = (conclude) => {
        signal.removeEventListener("abort", stop);
        conclude();
      };
      request.upload.onprogress = (event) => told(event.total ? (event.loaded / event.total) * file.size : 0);
      request.onload = () =>
        settle(() => {
          try {
            resolve(understood(request.status, request.responseText));
          } catch (error) {
            reject(error);
          }
        });
      request.onerror = request.ontimeout = () => settle(() => reject(new Unreachable()));
      request.onabort = () => settle(() => reject(signal.reason));
      signal.addEventListener("abort", stop);
      if (signal.aborted) return settle(() => reject(signal.reason));
      const body = new FormData();
      body.append("images", file, file.name);
      request.open("POST", this.address(`task/new/upload/${uuid}`));
      request.send(body);
    });
  }
}
