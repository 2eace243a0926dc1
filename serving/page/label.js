// The page that confirms drafts: one text at a time, its answer to accept or correct by keyboard.

import { make } from "./answers.js";
import { call, token } from "./server.js";

const PATH = "v1/label-file";
const at = (id) => document.getElementById(id);

let file = { kind: "label", labels: [], rows: [] };
let current = 0;
let read = () => null; // returns the answer in the form

// ------------------------------------------------------------------------------------ rows

async function load() {
  try {
    file = await call(PATH);
  } catch (error) {
    at("access").hidden = error.status !== 401;
    say(error.status === 404 ? "No file to label: start adapt serve with --label-file FILE" : error.message);
    return;
  }
  at("access").hidden = true;
  say("");
  at("work").hidden = false;
  show(following(-1));
}

/** Return the next row that nobody has confirmed, else the next row. */
function following(number) {
  const order = file.rows.map((_, step) => (number + 1 + step) % file.rows.length);
  return order.find((place) => !file.rows[place].confirmed) ?? order[0];
}

function show(number) {
  current = number;
  const row = file.rows[number];
  const done = file.rows.filter((each) => each.confirmed).length;
  at("progress").textContent = `${done} of ${file.rows.length} confirmed`;
  at("title").textContent = `Text ${number + 1}${row.confirmed ? ", confirmed" : ""}`;
  at("text").textContent = row.text;
  at("text").hidden = file.kind === "spans";
  const facts = [...Object.entries(row.fields), ...Object.entries(row.drafts).map(([name, answer]) => [name, words(row, answer)])];
  at("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", worded(value))]));
  at("answer").replaceChildren(...EDITORS[file.kind](row));
  at("answer").querySelector("select, textarea")?.focus();
}

function worded(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Return an answer in words. */
function words(row, answer) {
  if (answer === null) return "no valid answer";
  if (file.kind === "label") return answer;
  const parts = file.kind === "spans" ? answer.map(([start, end, label]) => `${piece(row.text, start, end)}: ${label}`) : answer;
  return parts.join(", ") || "none";
}

async function confirm() {
  const row = file.rows[current];
  try {
    file.rows[current] = await call(`${PATH}/${row.number}`, { body: { text: row.text, answer: read() } });
  } catch (error) {
    at("access").hidden = error.status !== 401;
    say(error.message);
    return;
  }
  say("");
  show(following(current));
}

function say(problem) {
  at("problem").hidden = !problem;
  at("problem").textContent = problem;
}

// ------------------------------------------------------------------------------------ answers

const EDITORS = { label: oneLabel, labels: manyLabels, tags, spans };

function choice(title, names, value) {
  const select = make("select", "", ...names.map((name) => new Option(name, name, false, name === value)));
  select.id = `choice-${title}`;
  const label = make("label", "", title);
  label.htmlFor = select.id;
  return [label, select];
}

function oneLabel(row) {
  const [label, select] = choice("Label", file.labels, row.answer);
  select.size = Math.max(2, Math.min(file.labels.length, 12));
  if (row.answer === null) select.selectedIndex = -1;
  read = () => select.value;
  return [label, select];
}

function manyLabels(row) {
  const [label, select] = choice("Labels", file.labels, null);
  select.multiple = true;
  select.size = Math.max(2, Math.min(file.labels.length, 12));
  for (const option of select.options) option.selected = (row.answer ?? []).includes(option.value);
  read = () => [...select.selectedOptions].map((option) => option.value);
  return [label, select];
}

function tags(row) {
  const parts = row.tokens.map((word, place) => choice(`${place + 1}: ${word}`, file.labels, row.answer?.[place]));
  read = () => parts.map(([, select]) => select.value);
  return [make("div", "row", ...parts.map((pair) => make("div", "", ...pair)))];
}

/** Show the text in a field where a part can be selected, the label that Enter gives to it, and the spans. */
function spans(row) {
  let answer = [...(row.answer ?? [])];
  const field = make("textarea", "", row.text);
  field.id = "selection";
  field.setAttribute("aria-readonly", "true"); // read-only fields have no caret, and so no selection by keyboard
  field.addEventListener("beforeinput", (event) => event.preventDefault());
  const title = make("label", "", "Text: select a part, and press Enter to give it the label");
  title.htmlFor = field.id;
  const [label, select] = choice("Label", file.labels, file.labels[0]);
  const list = make("ul", "");
  const draw = () => list.replaceChildren(...answer.map((span) => item(span)));
  const item = (span) => {
    const button = make("button", "quiet", `Remove ${piece(row.text, span[0], span[1])}: ${span[2]}`);
    button.type = "button";
    button.addEventListener("click", () => {
      answer = answer.filter((each) => each !== span);
      draw();
      field.focus();
    });
    return make("li", "", button);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || field.selectionStart === field.selectionEnd) return;
    event.preventDefault();
    event.stopPropagation();
    const [start, end] = [field.selectionStart, field.selectionEnd].map((offset) => [...row.text.slice(0, offset)].length);
    const apart = answer.filter((span) => span[1] <= start || span[0] >= end);
    answer = [...apart, [start, end, select.value]].sort((one, other) => one[0] - other[0]);
    field.selectionStart = field.selectionEnd;
    draw();
  });
  draw();
  read = () => answer;
  return [title, field, label, select, list];
}

/** Return the characters of a text between two offsets in code points. */
function piece(text, start, end) {
  return [...text].slice(start, end).join("");
}

// ------------------------------------------------------------------------------------ keys

at("work").addEventListener("submit", (event) => {
  event.preventDefault();
  confirm();
});
at("work").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && ["SELECT", "TEXTAREA"].includes(event.target.tagName)) {
    event.preventDefault();
    confirm();
  } else if (event.altKey && ["ArrowUp", "ArrowDown"].includes(event.key)) {
    event.preventDefault();
    at(event.key === "ArrowUp" ? "before" : "after").click();
  }
});
at("before").addEventListener("click", () => show((current + file.rows.length - 1) % file.rows.length));
at("after").addEventListener("click", () => show((current + 1) % file.rows.length));
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  load();
});

load();
