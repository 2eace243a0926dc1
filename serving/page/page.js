// The page: choose adapters, ask them, and watch what is served.

import { duration, make, shown } from "./answers.js";
import { call, Refused, stream, token } from "./server.js";
import { table } from "./table.js";

const PERIOD = 2000;
const LONGEST_SAID = 300;
const TITLES = { second: "Second text" };
const at = (id) => document.getElementById(id);

let served = { adapters: [], aliases: {}, refused: [] };
let listed = "";
let under = null; // what stops the requests under way

// ------------------------------------------------------------------------------------ what is served

const fillTable = table(at("rows"), (name) => {
  at("first").value = name;
  adapt();
  at("fields").querySelector("textarea").focus();
});

async function look() {
  try {
    served = await call("v1/adapters");
    say(at("table-problem"), "");
    allowed(true);
    at("backbone").textContent = `on ${served.backbone}`;
    offer();
    drawTable();
  } catch (error) {
    if (error.status === 401) allowed(false, error.message);
    say(at("table-problem"), `${error.message}. What is shown may be old.`);
  }
}

async function watch() {
  if (!document.hidden && at("pause").getAttribute("aria-pressed") === "false") await look();
  setTimeout(watch, PERIOD);
}

function drawTable() {
  const said = fillTable(served.adapters, at("find").value.trim());
  if (at("state").textContent !== said) at("state").textContent = said;
  drawRefused(served.refused);
}

/** List the files in the folder that are not served, with the reasons. */
function drawRefused(files) {
  at("refused").hidden = files.length === 0;
  at("reasons").replaceChildren(...files.flatMap((file) => [make("dt", "", file.name), make("dd", "", file.reason)]));
}

/** Offer adapters, aliases and versions to choose from; what was chosen stays, if it is still there. */
function offer() {
  const versions = served.adapters.filter((one) => one.versions.length > 1);
  const groups = {
    Adapters: served.adapters.map((one) => [one.name, one.name === one.task ? one.name : `${one.name} (${one.task})`]),
    Aliases: Object.entries(served.aliases).filter(([alias]) => behind(alias)).map(([alias, target]) => [alias, `${alias} (${target})`]),
    Versions: versions.flatMap((one) => one.versions.map(({ version }) => [`${one.name}@${version}`])),
  };
  const found = JSON.stringify(groups);
  if (found === listed) return;
  listed = found;
  for (const select of [at("first"), at("second")]) {
    const before = select.value;
    const none = select.id === "second" || !served.adapters.length ? [new Option("None", "")] : [];
    const options = Object.entries(groups).filter(([, names]) => names.length);
    select.replaceChildren(...none, ...options.map(([label, names]) => group(label, names)));
    select.value = before;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.disabled = !served.adapters.length;
  }
  at("run").disabled = !served.adapters.length;
  adapt();
}

function group(label, names) {
  const found = make("optgroup", "", ...names.map(([name, text]) => new Option(text ?? name, name)));
  found.label = label;
  return found;
}

/** Return what is known of the adapter that a name stands for. */
function behind(name) {
  const target = served.aliases[name] ?? name;
  return served.adapters.find((one) => one.name === target.split("@")[0]);
}

// --------------------------------------------------------------------------------------- the form

/** Show the fields that the chosen adapters ask for, and what else can be done with a text. */
function adapt() {
  const chosen = names().map(behind).filter(Boolean);
  const wanted = [...new Set(chosen.flatMap((one) => one.asks))];
  const there = [...at("fields").querySelectorAll("textarea")];
  const texts = new Map(there.map((area) => [area.name, area.value]));
  if (there.map((area) => area.name).join() !== wanted.join()) {
    at("fields").replaceChildren(...wanted.map((name) => field(name, texts.get(name) ?? "")));
  }
  at("modes").hidden = !chosen.some((one) => one.abilities.includes("completions"));
}

function field(name, text) {
  const area = make("textarea");
  area.id = `field-${name}`;
  area.name = name;
  area.value = text;
  area.rows = name === "context" ? 5 : 3;
  const title = TITLES[name] ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
  const label = make("label", "", title);
  label.htmlFor = area.id;
  return make("div", "field", label, area);
}

function names() {
  return [at("first").value, at("second").value].filter((name, place, all) => name && all.indexOf(name) === place);
}

function inputs(adapter) {
  const areas = adapter.asks.map((name) => at("fields").querySelector(`textarea[name="${CSS.escape(name)}"]`));
  return Object.fromEntries(areas.map((area) => [area.name, area.value]));
}

// ---------------------------------------------------------------------------------------- asking

async function run() {
  under?.abort();
  const stopper = (under = new AbortController());
  const continued = !at("modes").hidden && document.querySelector('input[name="mode"]:checked').value === "continue";
  const panels = names().map((name) => new Panel(name, behind(name)));
  at("answers").replaceChildren(...panels.map((one) => one.element));
  at("stop").hidden = false;
  at("said").textContent = "Asking";
  await Promise.all(panels.map((one) => one.ask(continued, stopper.signal)));
  if (under !== stopper) return;
  under = null;
  at("stop").hidden = true;
  at("said").textContent = panels.map((one) => one.told).join(". ");
  look();
}

/** The answer of one adapter. */
class Panel {
  constructor(name, adapter) {
    this.name = name;
    this.adapter = adapter;
    this.title = make("h3", "", name);
    this.hint = make("p", "hint", "…");
    this.body = make("div", "body");
    this.element = make("article", "answer", make("div", "row heading", this.title, this.hint), this.body);
    this.told = "";
  }

  async ask(continued, signal) {
    const began = performance.now();
    const input = inputs(this.adapter);
    const can = (ability) => this.adapter.abilities.includes(ability);
    this.element.setAttribute("aria-busy", "true");
    try {
      if (continued && can("completions")) {
        await this.write("v1/completions", { prompt: Object.values(input)[0] }, (choice) => choice.text, signal);
      } else if (can("chat") && this.adapter.asks.length === 1) {
        const messages = [{ role: "user", content: Object.values(input)[0] }];
        await this.write("v1/chat/completions", { messages }, (choice) => choice.delta.content, signal);
      } else {
        await this.predict(input, signal);
      }
      this.hint.append(duration(performance.now() - began));
      this.told = `${this.name} has answered: ${this.body.innerText.slice(0, LONGEST_SAID)}`;
    } catch (error) {
      this.fail(error);
    }
    this.element.removeAttribute("aria-busy");
  }

  async predict(input, signal) {
    const item = this.adapter.asks.length > 1 ? input : Object.values(input)[0];
    const found = await call("v1/predict", { body: { adapter: this.name, inputs: [item] }, signal });
    const [{ adapter, version, prediction }] = found.predictions;
    this.hint.textContent = `${adapter === this.adapter.name ? "" : `${adapter}, `}version ${version}, `;
    this.body.replaceChildren(...shown(prediction));
  }

  async write(path, body, piece, signal) {
    const text = make("p", "written");
    this.body.replaceChildren(text);
    this.hint.textContent = "";
    let ending = "";
    for await (const event of stream(path, { model: this.name, ...body }, signal)) {
      for (const choice of event.choices) {
        text.append(piece(choice) ?? "");
        ending = choice.finish_reason ?? ending;
      }
    }
    this.hint.textContent = ending === "length" ? "cut at its limit, " : "";
  }

  fail(error) {
    this.hint.textContent = "";
    if (error.name === "AbortError") {
      this.body.append(make("p", "hint", "Stopped."));
      this.told = `${this.name} was stopped`;
      return;
    }
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) allowed(false, error.message);
    const problem = make("p", "problem", error.message);
    if (error.requestId) problem.append(make("small", "", `request ${error.requestId}`));
    this.body.append(problem);
    this.told = `${this.name}: ${error.message}`;
  }
}

// ----------------------------------------------------------------------------------------- access

function allowed(yes, message = "") {
  const opened = !yes && at("access").hidden;
  at("access").hidden = yes;
  at("forget").hidden = !yes || !token.get();
  say(at("access-problem"), token.get() ? message : "");
  if (opened) at("token").focus();
}

function say(place, message) {
  place.hidden = !message;
  if (place.textContent !== message) place.textContent = message;
}

// ----------------------------------------------------------------------------------------- events

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token").value.trim());
  at("token").value = "";
  look();
});
at("forget").addEventListener("click", () => {
  token.forget();
  location.reload();
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") under?.abort();
});
at("stop").addEventListener("click", () => under?.abort());
at("first").addEventListener("change", adapt);
at("second").addEventListener("change", adapt);
at("find").addEventListener("input", drawTable);
at("pause").addEventListener("click", () => {
  const paused = at("pause").getAttribute("aria-pressed") === "true";
  at("pause").setAttribute("aria-pressed", String(!paused));
});
document.addEventListener("visibilitychange", () => document.hidden || look());
watch();
