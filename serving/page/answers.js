// Predictions as a person reads them. What to show is told by the fields that a prediction has, whatever its task is
// called: spans of a text, an answer in a context, scores of classes, a number, a vector, a text, and what is left.
// Text is set as text, never as markup. Offsets of the process count characters (code points), as arrays of them do.

const SPANS = ["entities", "words", "fills"];
const ECHOED = ["text", "second", "question", "context", "tokens", "tags"];
const HUES = 8;
const SHOWN = 8;

/** Return an element with a class and what stands in it. */
export function make(name, className = "", ...children) {
  const found = document.createElement(name);
  if (className) found.className = className;
  found.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return found;
}

/** Return what shows a prediction. */
export function shown(prediction) {
  const left = new Map(Object.entries(prediction));
  const found = [spans, answer, scores, value, vector].flatMap((shape) => shape(left));
  if (found.length) ECHOED.forEach((name) => left.delete(name));
  else if (left.has("text")) found.push(make("p", "written", take(left, "text")));
  return [...found, ...facts(left)];
}

function spans(left) {
  return SPANS.filter((name) => left.has("text") && located(left.get(name))).flatMap((name) => {
    const marks = take(left, name).map((one) => ({ ...one, label: one.label ?? one.tag ?? guesses(one) }));
    const text = make("p", "marked", ...marked(left.get("text"), marks));
    return marks.length ? [text] : [text, make("p", "hint", `No ${name} in it.`)];
  });
}

/** Return what else a mask may stand for. */
function guesses(fill) {
  const others = (fill.guesses ?? []).slice(1).map((guess) => guess.token);
  return others.length ? `or ${others.join(", ")}` : "";
}

function located(found) {
  return Array.isArray(found) && found.every((one) => Number.isInteger(one?.start) && Number.isInteger(one?.end));
}

function answer(left) {
  if (!left.has("context") || !left.has("answer")) return [];
  const [text, start, end, score] = ["answer", "start", "end", "score"].map((name) => take(left, name));
  const context = left.get("context");
  if (text === null) return [make("p", "headline", "No answer"), chance(score), make("p", "marked", context)];
  const marks = [{ start, end, label: "answer", score }];
  return [make("p", "headline", text), make("p", "marked", ...marked(context, marks))];
}

function chance(score) {
  return make("p", "hint", `Probability ${percent(score)}`);
}

/** Return a text in pieces, those that are marked with their labels; of marks that overlap the first. */
function marked(text, marks) {
  const characters = Array.from(text);
  const pieces = [];
  let done = 0;
  for (const { start, end, label, score } of [...marks].sort((one, other) => one.start - other.start)) {
    if (start < done) continue;
    pieces.push(characters.slice(done, start).join(""));
    const mark = make("mark", hue(label), characters.slice(start, end).join(""));
    const told = score === undefined ? label : `${label} ${percent(score)}`;
    mark.append("\u00a0", make("span", "label", told));
    pieces.push(mark);
    done = end;
  }
  return [...pieces, characters.slice(done).join("")].filter((piece) => piece !== "");
}

function scores(left) {
  if (typeof left.get("scores") !== "object" || left.get("scores") === null) return [];
  const all = Object.entries(take(left, "scores")).sort((one, other) => other[1] - one[1]);
  const several = left.has("labels");
  const label = take(left, several ? "labels" : "label");
  take(left, "score");
  const said = several ? label.join(", ") || "No label" : (label ?? "Out of scope");
  const chosen = new Set(several ? label : [label]);
  return [make("p", "headline", said), make("ul", "bars", ...all.map(([name, score]) => bar(name, score, chosen)))];
}

function bar(name, score, chosen) {
  const fill = make("span", "fill");
  fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  const track = make("span", "track", fill);
  track.setAttribute("aria-hidden", "true");
  return make("li", chosen.has(name) ? "chosen" : "", make("span", "name", name), track, make("span", "", percent(score)));
}

function value(left) {
  return typeof left.get("value") === "number" ? [make("p", "headline", take(left, "value"))] : [];
}

function vector(left) {
  if (!Array.isArray(left.get("embedding"))) return [];
  const numbers = take(left, "embedding");
  const first = numbers.slice(0, SHOWN).map((number) => number.toFixed(3));
  return [make("p", "headline", `A vector of ${numbers.length}`), make("p", "hint", `${first.join("  ")} …`)];
}

function facts(left) {
  if (!left.size) return [];
  const rows = [...left].flatMap(([name, found]) => [
    make("dt", "", name.replaceAll("_", " ")),
    make("dd", "", typeof found === "object" ? JSON.stringify(found) : String(found)),
  ]);
  return [make("dl", "facts", ...rows)];
}

/** Return a time as a person says it. */
export function duration(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

function take(left, name) {
  const found = left.get(name);
  left.delete(name);
  return found;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** Return the class of a label's colour: the same for the same label. */
function hue(label) {
  let sum = 7;
  for (const letter of label) sum = (sum * 31 + letter.codePointAt(0)) % 9973;
  return `hue-${sum % HUES}`;
}
