// ---- what is looked at stands in the page's address, so that a link shows the same

const VIEW = "#view?";

function viewText() {
  const found = new URLSearchParams();
  const [kind, name] = data.columns[view.column];
  if (view.column || view.down) found.set("sort", `${view.down ? "-" : ""}${kind}:${name}`);
  if (view.words.length) found.set("filter", view.words.join(" "));
  for (const state of view.states) found.append("state", state);
  if (view.size !== 25) found.set("rows", view.size);
  if (view.page) found.set("page", view.page + 1);
  if (view.pair.length) found.set("jobs", view.pair.join(","));
  if (isShown.some((isOn, place) => isOn !== place < AT_FIRST)) {
    const shown = data.groups.filter((_, place) => isShown[place]);
    for (const label of shown.length ? shown : [""]) found.append("curve", label);
  }
  if (byId("log-scale")?.checked) found.set("log", "1");
  return found.toString();
}

function keepView() {
  if (!view.isKept) return;
  const text = viewText();
  const hash = text ? VIEW + text : location.hash.startsWith(VIEW) ? "#" : null;
  if (hash !== null && location.hash !== hash) history.replaceState(null, "", hash);
}

// What a link asks for and this page does not have, as a group of an earlier report, is left out.
function readView() {
  if (!location.hash.startsWith(VIEW)) return;
  const asked = new URLSearchParams(location.hash.slice(VIEW.length));
  view.isKept = false;
  const sort = asked.get("sort") ?? "job:job";
  view.down = sort.startsWith("-");
  view.column = Math.max(0, data.columns.findIndex(([kind, name]) => `${kind}:${name}` === sort.replace(/^-/, "")));
  byId("filter").value = asked.get("filter") ?? "";
  view.words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  view.states = new Set(asked.getAll("state"));
  for (const button of byId("states").children) button.setAttribute("aria-pressed", String(view.states.has(button.dataset.state)));
  byId("size").value = asked.get("rows") ?? "25";
  if (!byId("size").value) byId("size").value = "25";
  view.size = Number(byId("size").value);
  view.pair = (asked.get("jobs") ?? "").split(",").filter((id) => rowOf(id)).slice(0, 2);
  if (asked.has("curve")) data.groups.forEach((label, place) => { isShown[place] = asked.getAll("curve").includes(label); });
  else isShown.forEach((_, place) => { isShown[place] = place < AT_FIRST; });
  if (byId("log-scale")) byId("log-scale").checked = asked.get("log") === "1";
  const page = Number(asked.get("page") ?? 1) - 1;
  arrange();
  view.page = Number.isInteger(page) && page > 0 ? page : 0;
  showRows();
  redraw();
  view.isKept = true;
  if (["sort", "filter", "state", "rows", "page", "jobs"].some((name) => asked.has(name))) byId("jobs").scrollIntoView();
}

// ---- a job and the end of its log, two jobs side by side: a click on their ids

const rowOf = (id) => data.rows.find((row) => String(row[0]) === String(id));

function choose(id) {
  const text = String(id);
  view.pair = view.pair.includes(text) ? view.pair.filter((other) => other !== text) : [...view.pair, text].slice(-2);
  showRows();
}

function showPair() {
  const rows = view.pair.map(rowOf);
  const [one, other] = rows;
  if (!other) {
    if (!one) { byId("pair").replaceChildren(); return; }
    byId("pair").replaceChildren(endOfLog(one), made("p", `job ${one[0]} is chosen; click on another one to compare them`, { class: "quiet" }), closing());
    return;
  }
  const differing = data.columns.flatMap((column, at) => (at && one[at] !== other[at] ? [[column, at]] : []));
  const table = made("table", "", { id: "pair-table" });
  const heads = document.createElement("tr");
  heads.append(made("th", ""), ...rows.map((row) => made("th", `job ${row[0]}`, { scope: "col" })));
  const lines = differing.map(([[kind, name, isNumber], at]) => {
    const line = document.createElement("tr");
    const cells = rows.map((row) => made("td", shownCell(row[at]), isNumber ? { class: "number" } : {}));
    line.append(made("th", kind === "job" ? name : `${kind} ${name}`, { scope: "row" }), ...cells);
    return line;
  });
  table.append(document.createElement("thead"), document.createElement("tbody"));
  table.tHead.append(heads);
  table.tBodies[0].append(...lines);
  const same = data.columns.length - 1 - differing.length;
  byId("pair").replaceChildren(table, made("p", `${same} columns are the same. `, { class: "quiet" }), ...rows.map(endOfLog), closing());
}

function closing() {
  const button = made("button", "close", { type: "button" });
  button.addEventListener("click", () => { view.pair = []; showRows(); });
  return button;
}

function endOfLog(row) {
  const [path, text] = data.logs[row[0]] ?? [null, ""];
  const found = made("div", "", { class: "log" });
  if (path === null) {
    const isLeftOut = data.logsLeftOut > 0 && row[data.columns.findIndex(([, name]) => name === "attempt")] !== null;
    const rest = isLeftOut ? "the end of its log is not on this page; experiment-manager logs shows it" : "it has printed nothing";
    found.append(made("p", `Job ${row[0]}: ${rest}.`, { class: "quiet" }));
    return found;
  }
  const title = made("p", `Job ${row[0]}, the end of `, { class: "quiet" });
  title.append(data.isBeside ? made("a", path, { href: path.split("/").map(encodeURIComponent).join("/") }) : path, ":");
  found.append(title, made("pre", text));
  return found;
}

// ---- figures and their data, as files

function save(name, type, text) {
  const link = made("a", "", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}

const csvCell = (cell) => {
  const text = String(cell ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

function dataOf(element) {
  if (element.dataset.metric === undefined) {
    const points = element.data.filter(({ hoverinfo }) => hoverinfo !== "skip").flatMap((trace) =>
      Array.from(trace.x ?? [], (x, at) => [trace.name ?? "", x, trace.y?.[at], trace.error_x?.array?.[at]]));
    return [["name", "x", "y", "half"], ...points];
  }
  const metric = data.metrics[Number(element.dataset.metric)];
  const drawn = metric.curves.filter(({ group }) => isShown[group]);
  const rows = drawn.flatMap((curve) => curve.steps.map((step, at) => [
    data.groups[curve.group], step, curve.means[at], curve.lows[at], curve.highs[at], curve.counts[at],
  ]));
  return [["group", metric.axis, "mean", "low", "high", "jobs"], ...rows];
}

function nameOf(element) {
  const title = element.closest("figure")?.querySelector("figcaption")?.textContent ?? element.id ?? "figure";
  return title.trim().replace(/[^\w.=-]+/g, "-") || "figure";
}

const SAVING = [
  {
    name: "svg", title: "Save as SVG", icon: Plotly.Icons.disk,
    click: (element) => Plotly.downloadImage(element, { format: "svg", filename: nameOf(element) }),
  },
  {
    name: "csv", title: "Save its data as CSV", icon: Plotly.Icons.spikeline,
    click: (element) => save(`${nameOf(element)}.csv`, "text/csv", `${dataOf(element).map((row) => row.map(csvCell).join(",")).join("\n")}\n`),
  },
];
