// The page: gives the server an input, shows what it answers and why. Every figure comes from the server.

import { $, count, isolated, made, percent, signed } from "./dom.js";
import { setUpDrawing } from "./drawing.js";

const SHOWN = 30; // classes and columns at most, the largest
const FIELDS = 60; // numbers up to which each has a field of its own

let card = null; // what the server says of the model
let last = null; // the last explanation
let picture = null; // the file that was given last, to send it again when `dark on light` changes
let asked = 0; // so that an old answer does not overwrite a newer one

// ---- the server

async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  const answer = await response.json();
  if (response.status === 401) {
    $("key").hidden = false;
    $("key").querySelector("input").focus();
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function guarded(action) {
  try {
    $("problem").hidden = true;
    await action();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  }
}

async function explain(body, type, query = "") {
  const turn = ++asked;
  const path = `v1/models/${encodeURIComponent(card.name)}:explain${query}`;
  const answer = await ask(path, { method: "POST", body, headers: { "Content-Type": type } });
  if (turn !== asked) return;
  if (answer.version !== card.version) await describe(card.name); // another version is served since
  [last] = answer.explanations;
  show();
}

const send = (rows) => explain(JSON.stringify({ instances: rows }), "application/json");

// ---- pictures of numbers

const byName = () => card.columns.length > 0;
const isPicture = () => card.shape.length > 1;

// values of the model's shape as rows of numbers (colours summed), for a map or a template
function plane(values) {
  if (card.shape.length === 1) return [values];
  return card.shape.length === 2 ? values : values.map((row) => row.map((cell) => cell.reduce((a, b) => a + b)));
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

// paints one pixel for each cell; pixel(i, j) gives [r, g, b]
function paint(canvas, height, width, pixel) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < height; i++)
    for (let j = 0; j < width; j++) image.data.set([...pixel(i, j), 255], 4 * (i * width + j));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const largest = (rows) => Math.max(...rows.map((row) => Math.max(...row.map(Math.abs)))) || 1;
const mix = (from, to, share) => from.map((value, k) => value + share * (to[k] - value));

function paintRaw(canvas, raw) {
  if (card.shape.length === 1) return;
  const [height, width] = card.shape;
  paint(canvas, height, width, (i, j) => (Array.isArray(raw[i][j]) ? raw[i][j] : Array(3).fill(raw[i][j])));
}

// blue for, orange against; over the input in grey where there is one
function paintSigned(canvas, values, raw = null) {
  const rows = plane(values);
  const most = largest(rows);
  const [middle, positive, negative] = ["--middle", "--for", "--against"].map(colour);
  const grey = raw && card.shape.length > 1 ? plane(raw) : null;
  const brightest = grey ? largest(grey) : 1;
  paint(canvas, rows.length, rows[0].length, (i, j) => {
    const under = grey ? mix([34, 34, 34], [205, 205, 205], grey[i][j] / brightest) : middle;
    return mix(under, rows[i][j] > 0 ? positive : negative, Math.min(1, Math.abs(rows[i][j]) / most) ** 0.7);
  });
}

// ---- what is shown

function show() {
  const { class_id: first, runner_up_id: second } = last;
  paintRaw($("draw"), last.input);
  if (!isPicture()) fill(last.input);
  const top = last.probabilities[first];
  const truth = document.querySelector("#samples [aria-pressed=true]")?.title;
  const judged = truth ? ["; the sample is labelled ", isolated(truth)] : [];
  $("answer").replaceChildren(made("strong", { textContent: last.label }), `${percent(top)}, then `, isolated(last.runner_up), ...judged);
  const ranked = card.classes.map((_, k) => k).sort((a, b) => last.probabilities[b] - last.probabilities[a]);
  $("bars").replaceChildren(
    ...ranked.slice(0, SHOWN).map((k) => {
      const share = last.probabilities[k];
      const className = k === first ? "first" : k === second ? "second" : "";
      return bar(card.classes[k], share, percent(share), className);
    }),
  );
  $("rest").textContent = ranked.length > SHOWN ? `and ${count(ranked.length - SHOWN)} classes more` : "";
  if (byName()) showColumns();
  else paintSigned($("evidence"), last.evidence, last.input);
  $("why").replaceChildren(`Each ${byName() ? "column" : "element"} speaks for `, isolated(last.label), " or for ",
    isolated(last.runner_up), "; together they decide.");
  $("evidence").setAttribute("aria-label", `Evidence for ${last.label} against ${last.runner_up}: ${signed(last.total)} in all`);
  $("for").textContent = last.label;
  $("against").textContent = isolated(last.runner_up);
  for (const name of ["total", "bias", "margin"]) $(name).textContent = signed(last[name]);
  $("legend").hidden = $("sum").hidden = false;
  [...$("templates").children].forEach((figure, k) => {
    figure.className = k === first ? "first" : k === second ? "second" : "";
  });
}

// one line: a name, a bar as long as the share of 1, a figure
function bar(name, share, figure, className) {
  const inner = made("div", { className: "fill" });
  inner.style.width = percent(share);
  return made("li", { className }, made("span", { textContent: name, title: name }), made("div", { className: "track" }, inner),
    made("output", { textContent: figure }));
}

// the evidence of each column, largest first
function showColumns() {
  const most = Math.max(...last.evidence.map(Math.abs)) || 1;
  const ranked = last.evidence.map((_, k) => k).sort((a, b) => Math.abs(last.evidence[b]) - Math.abs(last.evidence[a]));
  $("columns").replaceChildren(
    ...ranked.slice(0, SHOWN).map((k) => {
      const value = last.evidence[k];
      return bar(card.columns[k].name, Math.abs(value) / most, signed(value), value < 0 ? "second" : "first");
    }),
  );
}

function table(caption, head, rows) {
  const cells = (tag, row) => made("tr", {}, ...row.map((text) => made(tag, { textContent: text })));
  return made("table", {}, made("caption", { textContent: caption }), made("thead", {}, cells("th", head)),
    made("tbody", {}, ...rows.map((row) => cells("td", row))));
}

function showCard() {
  const { metrics, parity, tools } = card;
  const parts = [];
  const splits = ["val", "test"].filter((split) => metrics?.[split]);
  if (splits.length)
    parts.push(table(`Preprocessing ${card.preprocess}, trained on ${card.data}`, ["split", "accuracy", "95 % interval", "loss", "rows"],
      splits.map((split) => {
        const { accuracy, accuracy_95: [low, high], loss, rows } = metrics[split];
        return [split, percent(accuracy), `${percent(low)} to ${percent(high)}`, loss.toFixed(4), count(rows)];
      })));
  const classes = splits.length ? metrics[splits.at(-1)].classes : null;
  if (classes)
    parts.push(table(`Classes, ${splits.at(-1)} split`, ["class", "rows", "precision", "recall"],
      classes.map((row) => [row.name, count(row.count),
        ...[row.precision, row.recall].map((value) => (value === null ? "–" : percent(value)))])));
  if (parity?.length)
    parts.push(table("Each file against the model", ["format", "runtime", "rows", "logits differ by", "classes differ"],
      parity.map((row) => [row.format, row.runtime, count(row.rows), row.logits.toExponential(1), count(row.classes)])));
  if (tools) parts.push(made("p", { className: "hint", textContent: Object.entries(tools).map((pair) => pair.join(" ")).join(", ") }));
  if (!parts.length) parts.push(made("p", { className: "hint", textContent: "This export carries no figures." }));
  $("card").replaceChildren(...parts);
}

function showTemplates() {
  $("templates").replaceChildren(
    ...card.templates.map((values, k) => {
      const canvas = made("canvas");
      canvas.setAttribute("aria-label", `Template of ${card.classes[k]}`);
      canvas.setAttribute("role", "img");
      paintSigned(canvas, values);
      return made("figure", {}, canvas, made("figcaption", { textContent: card.classes[k] }));
    }),
  );
}

function showSamples() {
  const words = !isPicture();
  $("samples").className = words ? "words" : "";
  $("samples").replaceChildren(
    ...card.samples.map(({ raw, label }, i) => {
      const button = made("button", { type: "button" });
      if (words) button.append(isolated(label), ": ", ...cells(raw).slice(0, 8).flatMap((value, k) => [k ? ", " : "", isolated(shown(value))]));
      else {
        const canvas = made("canvas");
        paintRaw(canvas, raw);
        button.append(canvas);
      }
      button.setAttribute("aria-label", `Sample ${i + 1}: ${label}`);
      button.title = label;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        forget();
        button.setAttribute("aria-pressed", "true");
        guarded(() => send([raw]));
      });
      return button;
    }),
  );
}

async function describe(name) {
  card = await ask(`page/models/${encodeURIComponent(name)}`);
  const words = !isPicture();
  const input = byName() ? `${card.columns.length} columns` : `input ${card.shape.join(" × ")}`;
  $("served").textContent = `version ${card.version}, ${card.classes.length} classes, ${input}`;
  document.querySelectorAll(".picture-only").forEach((element) => (element.hidden = words));
  document.querySelectorAll(".table-only").forEach((element) => (element.hidden = !words));
  if (words) $("features").replaceChildren(...fields(), made("button", { textContent: "Ask" }));
  $("evidence").hidden = byName();
  $("columns").hidden = !byName();
  $("columns").replaceChildren();
  $("bars").replaceChildren();
  $("templates").parentElement.hidden = !card.templates.length;
  showSamples();
  showTemplates();
  showCard();
}

// ---- inputs

// the values of a row in the order of the columns
const cells = (row) => (byName() ? card.columns.map(({ name }) => row[name]) : row);
const shown = (value) => (value === null ? "" : typeof value === "number" ? shortest(value) : String(value));

// the fewest digits that are the same float32 to the model
function shortest(value) {
  const digits = [1, 2, 3, 4, 5, 6, 7, 8, 9].find((n) => Math.fround(value.toPrecision(n)) === Math.fround(value));
  return String(Number(value.toPrecision(digits)));
}

// a field per column with its known values; many numbers go into one field, to be pasted
function fields() {
  if (byName())
    return card.columns.map((column, k) => {
      const number = column.kind === "number";
      const field = made("input", number ? { type: "text", inputMode: "decimal" } : { type: "text", autocomplete: "off" });
      const list = made("datalist", { id: `values-${k}` }, ...column.values.slice(0, 1000).map((value) => made("option", { value })));
      field.setAttribute("list", list.id);
      return made("label", { title: column.name }, made("span", { textContent: column.name }), field, list);
    });
  if (card.shape[0] > FIELDS)
    return [made("label", { className: "paste", textContent: `${count(card.shape[0])} numbers, separated by commas or spaces` },
      made("textarea", { rows: 6, required: true }))];
  return Array.from({ length: card.shape[0] }, (_, i) =>
    made("label", { textContent: `feature ${i + 1}` }, made("input", { type: "number", step: "any", value: "0", required: true })));
}

// put a row into the fields
function fill(row) {
  const values = cells(row).map(shown);
  const area = document.querySelector("#features textarea");
  if (area) area.value = values.join(", ");
  else document.querySelectorAll("#features input").forEach((field, i) => (field.value = values[i]));
}

// the row that stands in the fields
function entered() {
  const area = document.querySelector("#features textarea");
  const texts = area ? area.value.trim().split(/[\s,;]+/) : [...document.querySelectorAll("#features input")].map((field) => field.value.trim());
  const numbers = (text) => {
    const value = { true: true, false: false }[text] ?? Number(text);
    if (Number.isNaN(value)) throw new Error(`${JSON.stringify(text)} is not a number`);
    return value;
  };
  if (!byName()) return texts.map(numbers);
  return Object.fromEntries(card.columns.map(({ name, kind, dtype }, k) => {
    if (texts[k] === "") return [name, null];
    return [name, kind === "number" || (dtype === "int64" && texts[k] !== "?") ? numbers(texts[k]) : texts[k]];
  }));
}

function forget() {
  picture = null;
  document.querySelectorAll("#samples [aria-pressed=true]").forEach((b) => b.setAttribute("aria-pressed", "false"));
}

const flags = () => `?fit=true&invert=${$("invert").checked}`;
const again = () => picture && guarded(() => explain(picture, picture.type, flags()));

async function give(file) {
  forget();
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "what was given"} is not a picture`);
  });
  const canvas = made("canvas", { width: Math.min(bitmap.width, 1024), height: 0 });
  canvas.height = Math.max(1, Math.round((canvas.width * bitmap.height) / bitmap.width));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  // a bright edge: most likely dark on light; the box can be changed
  const edge = context.getImageData(0, 0, canvas.width, 1).data;
  $("invert").checked = edge.reduce((sum, value, i) => sum + (i % 4 < 3 ? value : 0), 0) / (edge.length * 0.75) > 127 || !edge[3];
  const known = ["image/png", "image/jpeg"].includes(file.type);
  picture = known ? file : await new Promise((done) => canvas.toBlob(done, "image/png"));
  await again();
}

function setUpFiles() {
  $("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) guarded(() => give(file));
  });
  $("invert").addEventListener("change", again);
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) guarded(() => give(file));
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("drop");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("drop"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    const [file] = event.dataTransfer.files;
    if (file) guarded(() => give(file));
  });
  $("features").addEventListener("submit", (event) => {
    event.preventDefault();
    forget();
    guarded(() => send([entered()]));
  });
}

async function choose(name) {
  last = null;
  forget();
  await describe(name);
  document.querySelector("#samples button")?.click();
}

async function start() {
  const names = await ask("page/models");
  $("key").hidden = true;
  $("main").hidden = false;
  $("model").replaceChildren(...names.map((name) => made("option", { textContent: name })));
  await choose(names[0]);
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").querySelector("input").value);
  guarded(start);
});
$("model").addEventListener("change", (event) => guarded(() => choose(event.target.value)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (!card) return;
  showTemplates();
  if (last) show();
});
setUpDrawing({
  forget,
  hasPicture: () => picture !== null,
  give: (drawing) => guarded(() => explain(drawing, "image/png", "?fit=true")),
});
setUpFiles();
guarded(start);
