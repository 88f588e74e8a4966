// Actions: asks back where a button says so, sends, tells what became of it.

const at = (id) => document.getElementById(id);

export class Asking {
  #tell;
  #button = null;

  /** `tell` shows a sentence for a while. */
  constructor(tell) {
    this.#tell = tell;
    at("ask-no").addEventListener("click", () => at("ask").close());
    at("ask").querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#confirmed();
    });
  }

  /** A button with an action was pressed. */
  begin(button) {
    if (button.dataset.ask === undefined) {
      this.#send(button.dataset.post, new URLSearchParams());
      return;
    }
    this.#button = { ...button.dataset };
    at("ask-title").textContent = button.dataset.ask;
    at("ask-text").textContent = button.dataset.text ?? "";
    at("ask-problem").textContent = "";
    at("ask-yes").textContent = button.dataset.yes;
    at("ask-yes").hidden = false;
    at("ask-yes").className = button.classList.contains("danger") ? "danger" : "";
    at("ask-no").textContent = "Go back";
    at("ask-fields").replaceChildren();
    if (button.dataset.fields) at("ask-fields").append(at(button.dataset.fields).content.cloneNode(true));
    for (const [name, value] of Object.entries(JSON.parse(button.dataset.values ?? "{}"))) {
      at("ask-fields").querySelector(`[name="${name}"]`).value = value;
    }
    at("ask").showModal();
    // Whoever presses Enter without reading does no harm.
    (at("ask-fields").querySelector("select, input, textarea") ?? at("ask-no")).focus();
  }

  async #confirmed() {
    const fields = new URLSearchParams(new FormData(at("ask").querySelector("form")));
    at("ask-yes").disabled = true;
    const answer = await this.#send(this.#button.post, fields);
    at("ask-yes").disabled = false;
    if (answer.error) at("ask-problem").textContent = answer.error;
    else if (answer.token) this.#showToken(answer);
    else at("ask").close();
  }

  async #send(address, body) {
    let answer;
    try {
      const response = await fetch(address, { method: "POST", body });
      if (response.status === 401) location.assign("/dashboard/login");
      answer = await response.json();
    } catch {
      answer = { error: "The router does not answer. Nothing may have been changed; look before you try again." };
    }
    if (answer.findings) this.#showFindings(answer.findings);
    if (answer.leave) location.assign(answer.leave);
    if (answer.text) this.#tell(answer.text);
    if (answer.error && !at("ask").open) this.#tell(answer.error);
    return answer;
  }

  #showFindings(findings) {
    const list = document.createElement("ul");
    for (const { good, text } of findings) {
      const item = document.createElement("li");
      item.className = good ? "good" : "wrong";
      item.textContent = text;
      list.append(item);
    }
    at("findings").replaceChildren(list);
  }

  /** It is told this once. */
  #showToken({ text, token }) {
    const label = document.createElement("label");
    label.htmlFor = "new-token";
    label.textContent = "Copy it now: it is never shown again.";
    const field = document.createElement("input");
    Object.assign(field, { id: "new-token", type: "text", readOnly: true, value: token });
    at("ask-title").textContent = text;
    at("ask-text").textContent = "";
    at("ask-fields").replaceChildren(label, field);
    at("ask-yes").hidden = true;
    at("ask-no").textContent = "Done";
    field.focus();
    field.select();
  }
}
