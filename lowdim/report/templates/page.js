"use strict";
// Everything below reads the JSON in #data and writes text with textContent: nothing from the
// scan is ever parsed as HTML.
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const root = document.documentElement;
const { figures, methods } = JSON.parse(document.getElementById("data").textContent);

// --- colours: figures name CSS colours, plotly wants plain ones -------------------------------
const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;
const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
let colours = new Map();

function colour(css) {
  if (!colours.has(css)) {
    probe.style.color = css;
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = getComputedStyle(probe).color;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    colours.set(css, `rgba(${r},${g},${b},${(a / 255).toFixed(3)})`);
  }
  return colours.get(css);
}

const themed = (value) =>
  typeof value === "string" ? (/^(var|color-mix)\(/.test(value) ? colour(value) : value)
  : Array.isArray(value) ? (typeof value.at(-1) === "number" ? value : value.map(themed))
  : value && typeof value === "object" ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]))
  : value;

// --- plots: drawn when they come near the screen ----------------------------------------------
const drawn = new Set();
const touch = matchMedia("(pointer: coarse)").matches;

function layoutOf(figure) {
  const axis = (own = {}) => ({
    gridcolor: "var(--grid)", linecolor: "var(--rule)", zerolinecolor: "var(--rule)",
    automargin: true, ...own, title: { text: own.title, standoff: 10 },
  });
  const { xaxis, yaxis, ...rest } = figure.layout;
  return themed({
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--muted)" },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 52, r: 12, t: 12, b: 44 },
    hoverlabel: { bgcolor: "var(--raised)", bordercolor: "var(--rule)", font: { color: "var(--ink)" }, align: "left" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--accent)" },
    dragmode: touch ? false : "zoom", // a finger scrolls the page
    ...rest, xaxis: axis(xaxis), yaxis: axis(yaxis),
  });
}

function draw(canvas) {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }
  const figure = figures[canvas.dataset.figure];
  const config = {
    responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  Plotly.react(canvas, themed(figure.data), layoutOf(figure), config);
  drawn.add(canvas);
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((e) => e.isIntersecting)) {
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
$$(".canvas").forEach((canvas) => near.observe(canvas));

function choose(plot, key) {
  const canvas = plot.querySelector(".canvas");
  canvas.dataset.figure = key;
  near.unobserve(canvas);
  draw(canvas);
}

$$("select[data-plot]").forEach((select) => {
  select.addEventListener("change", () => choose(document.getElementById(select.dataset.plot), select.value));
});
$$("[data-chooses]").forEach((button) => button.addEventListener("click", () => {
  $$("button", button.parentNode).forEach((other) => other.setAttribute("aria-pressed", other === button));
  choose(button.closest(".plot"), button.dataset.chooses);
}));
$$("[data-opens]").forEach((link) => link.addEventListener("click", () => {
  const plot = document.getElementById(link.dataset.opens.split("/")[0]);
  const select = plot.querySelector("select");
  if (select) select.value = link.dataset.opens;
  choose(plot, link.dataset.opens);
}));

// --- light and dark ---------------------------------------------------------------------------
function recolour() {
  colours = new Map();
  drawn.forEach(draw);
}
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", recolour);
document.getElementById("theme").addEventListener("click", () => {
  const now = root.style.colorScheme || (dark.matches ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
  recolour();
});
let screenScheme = "";
addEventListener("beforeprint", () => {
  screenScheme = root.style.colorScheme;
  root.style.colorScheme = "light";
  document.body.style.width = "700px";
  colours = new Map();
  $$(".canvas").forEach((canvas) => { draw(canvas); Plotly.Plots.resize(canvas); });
});
addEventListener("afterprint", () => {
  root.style.colorScheme = screenScheme;
  document.body.style.width = "";
  recolour();
  drawn.forEach((canvas) => Plotly.Plots.resize(canvas));
});

// --- tables -----------------------------------------------------------------------------------
const natural = new Intl.Collator("en", { numeric: true });

function order(header) {
  const rising = header.getAttribute("aria-sort") !== "ascending";
  $$("th[aria-sort]", header.parentNode).forEach((th) => th.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const body = header.closest("table").tBodies[0];
  const numeric = $$(`td:nth-child(${header.cellIndex + 1})[data-sort]`, body).length > 0;
  const rows = [...body.rows].map((row) => {
    const cell = row.cells[header.cellIndex];
    const key = numeric ? parseFloat(cell.dataset.sort ?? "NaN") : cell.textContent.trim();
    return { row, key, missing: numeric ? Number.isNaN(key) : key === "" };
  });
  rows.sort((a, b) => a.missing - b.missing || (a.missing ? 0
    : (rising ? 1 : -1) * (numeric ? a.key - b.key : natural.compare(a.key, b.key))));
  body.append(...rows.map((r) => r.row));
}
$$("button.sort").forEach((button) => button.addEventListener("click", () => order(button.closest("th"))));

$$("input[data-find]").forEach((input) => input.addEventListener("input", () => {
  const wanted = input.value.trim().toLowerCase();
  for (const row of document.getElementById(input.dataset.find).querySelector("tbody").rows) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
}));

// --- what a number means: on hover, focus or tap ------------------------------------------------
const explain = document.getElementById("explain");
let shownFor = null;
let timer = 0;

function methodOf(target) {
  const named = target.closest("[data-method]");
  if (named) return [named, named.dataset.method];
  const cell = target.closest(".scroll td.n");
  if (!cell) return [null, null];
  const header = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
  const source = header.querySelector("[data-method]") ?? cell.parentNode.querySelector("[data-method]");
  return [cell, source?.dataset.method];
}

function line(parent, tag, text) {
  return text ? Object.assign(parent.appendChild(document.createElement(tag)), { textContent: text }) : null;
}

function show(target, id) {
  clearTimeout(timer);
  const method = methods[id];
  if (shownFor === target || !method) return;
  hide();
  explain.replaceChildren();
  line(explain, "b", method.label);
  line(explain, "p", method.question);
  const paper = explain.appendChild(document.createElement("p"));
  if (method.link) {
    Object.assign(line(paper, "a", method.paper), { href: method.link, rel: "noreferrer" });
  } else {
    line(paper, "span", method.paper);
  }
  line(explain, "small", [id, method.cost && `cost ${method.cost}`, method.oracle && `checked against ${method.oracle}`].filter(Boolean).join(" · "));
  shownFor = target;
  target.setAttribute("aria-describedby", "explain");
  target[target.matches("td") ? "append" : "after"](explain); // so that Tab goes on into its link
  explain.showPopover();
  const box = target.getBoundingClientRect();
  const [width, height] = [explain.offsetWidth, explain.offsetHeight];
  const below = box.bottom + 6 + height < innerHeight;
  explain.style.left = `${Math.max(8, Math.min(box.left, root.clientWidth - width - 8))}px`;
  explain.style.top = `${Math.max(8, below ? box.bottom + 6 : box.top - height - 6)}px`;
}

function hide() {
  if (!shownFor) return;
  shownFor.removeAttribute("aria-describedby");
  shownFor = null;
  explain.hidePopover();
  document.body.append(explain);
}

function meet(event) {
  if (explain.contains(event.target)) return clearTimeout(timer);
  const [target, id] = methodOf(event.target);
  if (target && id) return show(target, id);
  clearTimeout(timer);
  timer = setTimeout(hide, 250);
}
for (const type of ["mouseover", "focusin", "click"]) document.addEventListener(type, meet);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", (event) => { if (!explain.contains(event.target)) hide(); }, true);

// --- copy ---------------------------------------------------------------------------------------
$$(".copy").forEach((button) => button.addEventListener("click", async () => {
  const code = button.parentNode.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // no clipboard from a file: leave it selected
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}));
