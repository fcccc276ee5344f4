"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const made = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

// ---- the table of jobs: sorted, filtered, and shown page by page, so that 10,000 jobs are no burden

const collator = new Intl.Collator(undefined, { numeric: true });
const STATE = data.columns.findIndex(([, name]) => name === "state");
const view = { column: 0, down: false, words: [], states: new Set(), page: 0, size: 25, rows: data.rows, pair: [], isKept: false };
const texts = data.rows.map((row) => row.map((cell) => cell ?? "").join("\n").toLowerCase());

// A number, also one that JSON has no word for; NaN and what is missing have no place in an order, and come last.
function keyOf(cell, isNumber) {
  if (!isNumber) return cell;
  if (cell === "inf" || cell === "-inf") return cell === "inf" ? Infinity : -Infinity;
  return cell === null || cell === "" ? null : Number.isNaN(Number(cell)) ? null : Number(cell);
}

function compare(left, right, isNumber) {
  if (left === null || right === null) return left === right ? 0 : left === null ? 2 : -2;
  if (isNumber) return left < right ? -1 : left > right ? 1 : 0;
  return collator.compare(String(left), String(right));
}

// A word is somewhere in the row; name=value is exactly the value of a column of that name.
function passes(word, place) {
  const cut = word.indexOf("=");
  const name = word.slice(0, cut), value = word.slice(cut + 1);
  const columns = cut < 1 ? [] : data.columns.flatMap((column, at) => (column[1].toLowerCase() === name ? [at] : []));
  if (!columns.length) return texts[place].includes(word);
  return columns.some((at) => String(data.rows[place][at] ?? "").toLowerCase() === value);
}

function arrange() {
  const isNumber = data.columns[view.column][2];
  const kept = [];
  data.rows.forEach((row, place) => {
    if (view.states.size && !view.states.has(row[STATE])) return;
    if (view.words.every((word) => passes(word, place))) kept.push([keyOf(row[view.column], isNumber), place]);
  });
  kept.sort(([left, first], [right, second]) => {
    const order = compare(left, right, isNumber);
    return Math.abs(order) === 2 ? order : (view.down ? -order : order) || first - second;
  });
  view.rows = kept.map(([, place]) => data.rows[place]);
  view.page = 0;
  showRows();
}

function shownCell(cell) {
  if (typeof cell !== "number" || Number.isInteger(cell)) return String(cell ?? "");
  return String(Number(cell.toPrecision(6)));
}

function showRows() {
  const pages = Math.max(1, Math.ceil(view.rows.length / view.size));
  view.page = Math.min(view.page, pages - 1);
  const lines = view.rows.slice(view.page * view.size, (view.page + 1) * view.size).map((row) => {
    const line = document.createElement("tr");
    row.forEach((cell, place) => {
      const attributes = data.columns[place][2] ? { class: "number" } : {};
      if (place === STATE) attributes.class = `state ${family(cell)}`;
      if (typeof cell === "number" && !Number.isInteger(cell)) attributes.title = String(cell);
      const shown = made("td", place ? shownCell(cell) : "", attributes);
      if (!place) {
        const isChosen = view.pair.includes(String(cell));
        const button = made("button", shownCell(cell), { type: "button", class: "choose", title: "the end of its log; compare it with another job", "aria-pressed": String(isChosen) });
        button.addEventListener("click", () => choose(cell));
        shown.append(button);
      }
      line.append(shown);
    });
    return line;
  });
  byId("table").tBodies[0].replaceChildren(...lines);
  byId("page").textContent = `page ${view.page + 1} of ${pages.toLocaleString("en")}`;
  byId("previous").disabled = view.page === 0;
  byId("next").disabled = view.page === pages - 1;
  byId("shown").textContent = `${view.rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} jobs`;
  for (const [place, head] of [...byId("table").querySelectorAll("th")].entries()) {
    if (place === view.column) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  showPair();
  keepView();
}

function family(state) {
  const known = { COMPLETED: "good", RUNNING: "running", PENDING: "waiting", QUEUED: "waiting", FAKE: "waiting", PRUNED: "pruned" };
  return known[state] ?? "bad";
}

function buildTable() {
  const heads = document.createElement("tr");
  data.columns.forEach(([kind, name, isNumber], place) => {
    const head = made("th", "", isNumber ? { class: "number", scope: "col" } : { scope: "col" });
    const button = made("button", name, { type: "button" });
    button.addEventListener("click", () => {
      view.down = view.column === place && !view.down;
      view.column = place;
      arrange();
    });
    head.append(made("small", kind === "job" ? "\u00a0" : kind), button);
    heads.append(head);
  });
  byId("table").tHead.append(heads);
  const counts = new Map();
  for (const row of data.rows) counts.set(row[STATE], (counts.get(row[STATE]) ?? 0) + 1);
  for (const [state, count] of counts) {
    const button = made("button", `${state} ${count.toLocaleString("en")}`, { type: "button", "aria-pressed": "false" });
    button.dataset.state = state;
    button.addEventListener("click", () => {
      const isOn = !view.states.delete(state);
      if (isOn) view.states.add(state);
      button.setAttribute("aria-pressed", String(isOn));
      arrange();
    });
    byId("states").append(button);
  }
  byId("filter").addEventListener("input", (event) => {
    view.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    arrange();
  });
  byId("size").addEventListener("change", (event) => { view.size = Number(event.target.value); view.page = 0; showRows(); });
  byId("previous").addEventListener("click", () => { view.page -= 1; showRows(); });
  byId("next").addEventListener("click", () => { view.page += 1; showRows(); });
  arrange();
}

// ---- the plots: Plotly draws, and each one only when it comes into sight

// Eight colours that stay apart for most colour-blind people (after Okabe and Ito), on white and on black; then dashes.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#008060", "#b0478f", "#a07800", "#2f9bd6", "#5b4bb5", "#6b7280"],
  dark: ["#56b4e9", "#ff8a4c", "#2fbf9b", "#e58cc5", "#f0c94a", "#8ad0ff", "#a99bff", "#aab2bf"],
};
const DASHES = ["solid", "dash", "dot"];
const AT_FIRST = data.groups.length <= 12 ? 12 : 8; // more would hide each other
const dark = window.matchMedia("screen and (prefers-color-scheme: dark)");
let isPrinting = false;
const isShown = data.groups.map((_, place) => place < AT_FIRST);
const ofGroup = (place, scheme) => COLOURS[scheme][place % COLOURS.light.length];
const dashOf = (place) => DASHES[Math.floor(place / COLOURS.light.length) % DASHES.length];
const scheme = () => (dark.matches && !isPrinting ? "dark" : "light");
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // Plotly reads some HTML
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], modeBarButtonsToAdd: SAVING };

function layout(more) {
  const [ink, line, card] = scheme() === "dark" ? ["#98a2b3", "#2e3541", "#1a1e26"] : ["#5d6778", "#dde1e8", "#ffffff"];
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    modebar: { bgcolor: "rgba(0,0,0,0)" }, // else half black: Plotly derives it from a paper that is transparent
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    font: { color: ink, size: 12, family: "system-ui, -apple-system, 'Segoe UI', sans-serif" },
    hoverlabel: { bgcolor: card, bordercolor: line, font: { color: scheme() === "dark" ? "#e3e7ee" : "#1c2330" }, align: "left" },
    margin: { l: 50, r: 12, t: 12, b: 40 }, ...more,
    xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

// One polygon for each stretch on which the band is known.
function band(curve) {
  const outline = { x: [], y: [] };
  let start = null;
  for (let place = 0; place <= curve.steps.length; place += 1) {
    const isKnown = place < curve.steps.length && curve.lows[place] !== null && curve.highs[place] !== null;
    if (isKnown && start === null) start = place;
    if (isKnown || start === null) continue;
    if (outline.x.length) { outline.x.push(null); outline.y.push(null); }
    outline.x.push(...curve.steps.slice(start, place), ...curve.steps.slice(start, place).reverse());
    outline.y.push(...curve.lows.slice(start, place), ...curve.highs.slice(start, place).reverse());
    start = null;
  }
  return outline;
}

function traces(metric) {
  const bands = [], lines = [];
  const mode = metric.curves.some(({ steps }) => steps.length > 40) ? "lines" : "lines+markers";
  for (const curve of metric.curves.filter(({ group }) => isShown[group])) {
    const colour = ofGroup(curve.group, scheme());
    const name = plain(data.groups[curve.group]);
    const outline = band(curve);
    if (outline.x.length) {
      bands.push({
        ...outline, type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: `${colour}2e`, hoverinfo: "skip", name,
      });
    }
    lines.push({
      x: curve.steps, y: curve.means, name, type: "scatter", mode,
      line: { color: colour, width: 2, dash: dashOf(curve.group) }, marker: { color: colour, size: 4 }, connectgaps: false,
      customdata: curve.counts.map((count, at) => [
        count, curve.lows[at] === null ? "" : `<br>95 %: ${curve.lows[at].toPrecision(5)} to ${curve.highs[at]?.toPrecision(5)}`,
      ]),
      hovertemplate: "%{y:.6g} at %{x}%{customdata[1]}<br>mean of %{customdata[0]}<extra>%{fullData.name}</extra>",
    });
  }
  return [...bands, ...lines];
}

function drawCurves(element) {
  const metric = data.metrics[Number(element.dataset.metric)];
  const type = byId("log-scale").checked ? "log" : "linear";
  element.dataset.drawn = "yes";
  return Plotly.react(element, traces(metric), layout({ xaxis: { title: { text: metric.axis } }, yaxis: { type } }), CONFIG);
}

function drawBest(element) {
  const found = data.best.configurations;
  if (!found.length) { element.remove(); return; }
  const colour = ofGroup(0, scheme());
  const places = found.map((_, place) => place + 1);
  const points = found.flatMap(({ points: own }, place) => own.map(([job, value]) => [value, place + 1, job]));
  const jobs = {
    type: "scatter", mode: "markers", x: points.map(([value]) => value), y: points.map(([, place]) => place),
    marker: { color: ofGroup(7, scheme()), size: 7, symbol: "circle-open" }, customdata: points.map(([, , job]) => job),
    hovertemplate: "%{x:.6g}<extra>job %{customdata}</extra>",
  };
  const means = {
    type: "scatter", mode: "markers", x: found.map(({ mean }) => mean), y: places, marker: { color: colour, size: 9 },
    error_x: { type: "data", array: found.map(({ half }) => half ?? 0), color: colour, thickness: 1.6, width: 4 },
    text: found.map(({ label }) => plain(label)), hovertemplate: "mean %{x:.6g}<extra>%{text}</extra>",
  };
  const yaxis = { autorange: "reversed", tickvals: places, ticktext: places, showgrid: false };
  const height = 90 + 30 * found.length;
  Plotly.react(element, [jobs, means], layout({ height, xaxis: { title: { text: plain(data.best.metric) } }, yaxis }), CONFIG);
  element.dataset.drawn = "yes";
}

// What Optuna has drawn, in the colours of this page.
function drawStudy(element) {
  const figure = data.search[Number(element.dataset.figure)];
  const margin = { l: 80, r: 60, t: 30, b: 50 };
  Plotly.react(element, figure.data, layout({ ...figure.layout, margin, showlegend: false }), CONFIG);
  element.dataset.drawn = "yes";
}

function redraw(isAll = false) {
  document.querySelectorAll(".plot.study").forEach(drawStudy);
  document.querySelectorAll(".plot.compared").forEach(drawCompared);
  for (const element of document.querySelectorAll(".plot.curve")) if (isAll || element.dataset.drawn) drawCurves(element);
  if (byId("best-plot")) drawBest(byId("best-plot"));
  showLegend();
  keepView();
}

function showLegend() {
  if (!byId("legend")) return;
  byId("legend").replaceChildren(...data.groups.map((label, place) => {
    const button = made("button", "", { type: "button", "aria-pressed": String(isShown[place]) });
    const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const dash = { solid: "", dash: "7 4", dot: "2 3" }[dashOf(place)];
    const attributes = { x1: 0, x2: 26, y1: 4, y2: 4, stroke: ofGroup(place, scheme()), "stroke-width": 3, "stroke-dasharray": dash };
    for (const [name, value] of Object.entries(attributes)) stroke.setAttribute(name, value);
    sample.append(stroke);
    button.append(sample, label);
    button.addEventListener("click", () => { isShown[place] = !isShown[place]; redraw(); });
    return button;
  }));
}

function buildPlots() {
  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.dataset.drawn) drawCurves(target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".plot.curve").forEach((element) => sight.observe(element));
  byId("log-scale")?.addEventListener("change", () => redraw());
  const showAll = (isOn) => { isShown.fill(isOn); redraw(); };
  byId("all-groups")?.addEventListener("click", () => showAll(true));
  byId("no-groups")?.addEventListener("click", () => showAll(false));
  dark.addEventListener("change", () => redraw());
  window.addEventListener("beforeprint", () => { isPrinting = true; redraw(true); });
  window.addEventListener("afterprint", () => { isPrinting = false; redraw(); });
  redraw();
}

buildTable();
buildPlots();
readView();
view.isKept = true;
window.addEventListener("hashchange", readView);
