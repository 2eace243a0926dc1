// The table of adapters: a row each, which stays the same element while its figures change, so that focus stays too.

import { duration, make } from "./answers.js";

const MOST = 200;
const UNITS = ["B", "KiB", "MiB", "GiB"];

/** Return what fills the rows with adapters; `chosen` is called with the name of one that is picked. */
export function table(rows, chosen) {
  const known = new Map();
  return (adapters, sought) => {
    const fitting = adapters.filter((one) => !sought || one.name.toLowerCase().includes(sought.toLowerCase()));
    const listed = fitting.slice(0, MOST);
    const names = new Set(listed.map((one) => one.name));
    for (const [name, row] of known) {
      if (!names.has(name)) {
        row.remove();
        known.delete(name);
      }
    }
    listed.forEach((one, place) => {
      if (!known.has(one.name)) known.set(one.name, created(one.name, chosen));
      const row = known.get(one.name);
      if (rows.children[place] !== row) rows.insertBefore(row, rows.children[place] ?? null);
      fill(row, one);
    });
    return fitting.length > MOST ? `${fitting.length} adapters, of which the first ${MOST} are listed` : counted(fitting);
  };
}

function counted(adapters) {
  return adapters.length === 1 ? "1 adapter" : `${adapters.length} adapters`;
}

function created(name, chosen) {
  const button = make("button", "link", name);
  button.type = "button";
  button.title = "Ask this adapter";
  button.addEventListener("click", () => chosen(name));
  const row = make("tr", "", make("th", "", button));
  row.role = "row"; // what is laid out as blocks on a narrow screen stays a table for those who listen to it
  row.firstChild.role = "rowheader";
  for (const [label, kind] of [
    ["Task", ""],
    ["Methods", ""],
    ["Version", ""],
    ["Requests", "number"],
    ["Errors", "number"],
    ["Latency", "number"],
    ["Resident", "number"],
  ]) {
    const cell = make("td", kind);
    cell.dataset.label = label;
    cell.role = "cell";
    row.append(cell);
  }
  return row;
}

function fill(row, adapter) {
  const { requests, errors, mean_seconds: mean } = adapter.counters;
  const resident = adapter.versions.reduce((sum, one) => sum + one.resident_bytes, 0);
  const texts = [
    adapter.task,
    adapter.methods.join(", "),
    versions(adapter),
    requests.toLocaleString("en"),
    errors.toLocaleString("en"),
    mean === null ? "–" : duration(1000 * mean),
    (resident ? size(resident) : "no") + (adapter.pinned ? ", pinned" : ""),
  ];
  texts.forEach((text, place) => {
    const cell = row.children[place + 1];
    if (cell.textContent !== text) cell.textContent = text;
  });
  row.children[5].classList.toggle("bad", errors > 0);
}

/** Return the version that answers, or the shares of several. */
function versions(adapter) {
  const answering = adapter.versions.filter((one) => one.weight > 0);
  const shares = answering.map((one) => `${one.version} (${Math.round(100 * one.weight)} %)`);
  const said = answering.length > 1 ? shares.join(", ") : String(adapter.version);
  return adapter.mirror === null ? said : `${said}, ${adapter.mirror} hears`;
}

function size(bytes) {
  let unit = 0;
  for (; bytes >= 1024 && unit < UNITS.length - 1; unit += 1) bytes /= 1024;
  return `${bytes.toFixed(unit && bytes < 100 ? 1 : 0)} ${UNITS[unit]}`;
}
