// What stands on the page, put together: access, the new task, the tasks that are there.

import { Api, Refused } from "./api.js";
import { Options } from "./options.js";
import { Tasks } from "./tasks.js";
import { Upload } from "./upload.js";

const at = (id) => document.getElementById(id);
const options = new Options(at("option-list"), at("options-count"), at("options-shown"));
let api = new Api(new URLSearchParams(location.search).get("token") ?? "");
let info = null;
let tasks = null;
let upload = null;
let entries = [];

function alertUser(text, place = "alert") {
  if (at(place).textContent === text) return;
  at(place).textContent = text;
  at(place).hidden = !text;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let [amount, unit] = [bytes, 0];
  for (; amount >= 1000 && unit < units.length - 1; unit += 1) amount /= 1000;
  return `${unit === 0 || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${units[unit]}`;
}

const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

// Access

async function connect() {
  tasks?.stop();
  let catalogue;
  try {
    [info, catalogue] = await Promise.all([api.get("info"), api.get("options")]);
  } catch (error) {
    refused(error);
    return;
  }
  alertUser("");
  at("server").textContent = [
    info.engineVersion === "?" ? info.engine : `${info.engine} ${info.engineVersion}`,
    `${counted(info.maxParallelTasks, "task")} at once`,
    `${info.taskQueueCount} in the queue`,
    info.maxImages === null ? "" : `at most ${info.maxImages} images each`,
  ].filter(Boolean).join(" · ");
  options.show(catalogue);
  reveal(true);
  const parts = {
    list: at("task-list"), template: at("task-template"), none: at("no-tasks"), older: at("older-tasks"),
  };
  const failed = (error) => alertUser(error === null ? "" : error.message, "tasks-alert");
  tasks = new Tasks(api, parts, failed, (error) => alertUser(error.message));
  await tasks.start();
}

function refused(error) {
  reveal(false);
  if (!(error instanceof Refused)) alertUser(`${error.message} Load this page again in a while.`);
  else if (api.token) alertUser("This token does not open this service. Check it, and try again.");
  if (error instanceof Refused) at("token").focus();
}

function reveal(isOpen) {
  for (const id of ["server-row", "new-task", "tasks"]) at(id).hidden = !isOpen;
  at("access").hidden = isOpen;
}

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api = new Api(at("token").value.trim());
  at("token").value = "";
  connect();
});

at("other-token").addEventListener("click", () => {
  tasks?.stop();
  reveal(false);
  at("token").focus();
});

// Files

function addFiles(files) {
  if (upload !== null) return;
  for (const file of files) {
    const row = at("file-template").content.firstElementChild.cloneNode(true);
    const entry = { file, row };
    row.querySelector(".file-name").textContent = file.name;
    row.querySelector(".file-size").textContent = size(file.size);
    const button = row.querySelector("button");
    button.setAttribute("aria-label", `Remove ${file.name}`);
    button.addEventListener("click", () => {
      entries = entries.filter((each) => each !== entry);
      row.remove();
      showChosen();
      at("files").focus();
    });
    entries.push(entry);
    at("file-list").append(row);
  }
  showChosen();
}

function showChosen() {
  const bytes = entries.reduce((sum, each) => sum + each.file.size, 0);
  at("chosen-row").hidden = at("file-list").hidden = entries.length === 0;
  at("chosen").textContent = `${counted(entries.length, "file")}, ${size(bytes)}`;
}

function clearFiles() {
  entries = [];
  at("file-list").replaceChildren();
  showChosen();
}

/** Everything below a dropped folder. */
async function filesBelow(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const each of some) found.push(...(await filesBelow(each)));
  }
}

at("files").addEventListener("change", () => {
  addFiles(at("files").files);
  at("files").value = "";
});
at("clear-files").addEventListener("click", () => {
  clearFiles();
  at("files").focus();
});
at("drop").addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", async (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const dropped = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!dropped.length) {
    addFiles(event.dataTransfer.files);
    return;
  }
  try {
    for (const entry of dropped) addFiles(await filesBelow(entry));
  } catch (error) {
    alertUser(`The folder cannot be read: ${error.message}`);
  }
});

// Options

at("option-search").addEventListener("input", () => options.search(at("option-search").value));
at("option-search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") event.preventDefault();
});
at("reset-options").addEventListener("click", () => options.reset());

// Upload

const WORDS = { waiting: "", sending: "", done: "", failed: "Not sent: " };

function showEntry({ row, file, state, sent, error }) {
  const bar = row.querySelector("progress");
  bar.hidden = false;
  bar.value = state === "done" || !file.size ? Number(state === "done") : sent / file.size;
  bar.setAttribute("aria-label", `Upload of ${file.name}`);
  const text = row.querySelector(".file-state");
  text.textContent = state === "waiting" && error ? `${error} Trying again.` : WORDS[state] + error;
  text.classList.toggle("wrong", state === "failed");
  showUpload();
}

function showUpload() {
  const bar = at("upload-progress");
  bar.value = upload.bytes ? upload.sent / upload.bytes : 0;
  const text = `${upload.done} of ${counted(upload.entries.length, "file")} sent`;
  if (at("upload-status").textContent !== text) at("upload-status").textContent = text;
}

function lockForm(isLocked) {
  for (const each of at("task-form").querySelectorAll("input, select, #start, #clear-files, #reset-options, li button")) {
    each.disabled = isLocked;
  }
  at("other-token").disabled = isLocked;
  at("stop-upload").hidden = at("upload-progress").hidden = !isLocked;
  at("retry-upload").hidden = true;
}

async function begin() {
  const fields = { name: at("name").value.trim(), options: JSON.stringify(options.changed) };
  upload = new Upload(api, entries, showEntry);
  showUpload();
  try {
    await upload.begin(fields);
  } catch (error) {
    leaveUpload("");
    throw error;
  }
}

/** Send what is missing, then make it a task. */
async function deliver() {
  if (!(await upload.run())) {
    at("retry-upload").hidden = false;
    at("retry-upload").focus();
    const missing = upload.failed.length === 1 ? "1 file is" : `${upload.failed.length} files are`;
    throw new Error(`${missing} not there: ${upload.failed[0].error}`);
  }
  await api.post(`task/new/commit/${upload.uuid}`);
  tasks.add(upload.uuid);
  leaveUpload(`The task is submitted with ${counted(entries.length, "file")}.`);
  clearFiles();
  at("name").value = "";
}

function leaveUpload(text) {
  upload = null;
  lockForm(false);
  for (const { row } of entries) {
    row.querySelector("progress").hidden = true;
    row.querySelector(".file-state").textContent = "";
  }
  at("upload-status").textContent = text;
}

async function guarded(work) {
  alertUser("");
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") {
      leaveUpload(error.message);
      return;
    }
    alertUser(error.message);
    if (upload !== null) at("retry-upload").hidden = false;
  }
}

at("task-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (upload !== null) return;
  if (!entries.length) {
    alertUser("Choose at least one image.");
    at("files").focus();
    return;
  }
  if (info.maxImages !== null && entries.length > info.maxImages) {
    alertUser(`These are ${entries.length} files; a task here takes ${info.maxImages} at most.`);
    return;
  }
  lockForm(true);
  guarded(async () => {
    await begin();
    await deliver();
  });
});
at("retry-upload").addEventListener("click", () => {
  at("retry-upload").hidden = true;
  guarded(deliver);
});
at("stop-upload").addEventListener("click", () => {
  if (upload === null) return;
  upload.stop();
  // When nothing is on its way, nobody is there to be stopped.
  if (!at("retry-upload").hidden) leaveUpload("The upload was canceled.");
});
window.addEventListener("beforeunload", (event) => {
  if (upload !== null) event.preventDefault();
});

connect();
