"use strict";

// ---- tables: a header's button sorts, and sorts the other way when it is pressed again

function valueOf(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  return text === "" ? null : cell.dataset.value === undefined ? text : Number(text);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function sort(header) {
  const table = header.closest("table"), column = header.cellIndex;
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = Array.from(table.tBodies[0].rows, (row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);  // what is missing stays last
    return descending ? compare(b, a) : compare(a, b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  document.getElementById("said").textContent =
    `sorted by ${header.textContent.trim()}, ${descending ? "descending" : "ascending"}`;
}

for (const button of document.querySelectorAll("table.sortable th button"))
  button.addEventListener("click", () => sort(button.closest("th")));

// ---- the confusion matrix: one cell can have the focus, and the arrow keys move it

const matrix = document.querySelector("table.matrix");
const counts = JSON.parse(matrix.dataset.counts);
const readout = document.getElementById("readout");
const names = Array.from(matrix.tBodies[0].rows, (row) => row.cells[0].textContent);
const format = new Intl.NumberFormat("en");
const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
let current = cellAt(0, 0);
current.tabIndex = 0;

function cellAt(truth, predicted) {
  const row = matrix.tBodies[0].rows[truth];
  return row && predicted >= 0 ? row.cells[predicted + 1] : undefined;
}

function placeOf(cell) {
  return [cell.parentNode.sectionRowIndex, cell.cellIndex - 1];
}

function focusOn(cell) {
  cell.tabIndex = -1;
  cell.focus();
}

function tell(cell) {
  const [truth, predicted] = placeOf(cell);
  const count = counts[truth][predicted];
  const total = counts[truth].reduce((a, b) => a + b, 0);
  const share = total ? `, ${(100 * count / total).toFixed(2)}% of ${names[truth]}` : "";
  readout.textContent =
    `${names[truth]} → ${names[predicted]}: ${format.format(count)} ${matrix.dataset.unit}${share}`;
}

matrix.addEventListener("mousemove", (event) => {
  const cell = event.target.closest("td");
  if (cell && (event.movementX || event.movementY)) tell(cell);  // not where the page moved below it
});
matrix.addEventListener("focusin", (event) => {
  const cell = event.target.closest("td");
  if (!cell) return;
  current.tabIndex = -1;
  current = cell;
  current.tabIndex = 0;
  tell(cell);
});
matrix.addEventListener("mousedown", (event) => {
  const cell = event.target.closest("td");
  if (cell) focusOn(cell);
});
matrix.addEventListener("keydown", (event) => {
  const step = steps[event.key], cell = event.target.closest("td");
  if (!step || !cell) return;
  event.preventDefault();
  const [truth, predicted] = placeOf(cell);
  const next = cellAt(truth + step[0], predicted + step[1]);
  if (next) focusOn(next);
});

// ---- pictures: how strong the overlays are, and a larger view

for (const label of document.querySelectorAll(".opacity")) {
  label.hidden = false;
  label.querySelector("input").addEventListener("input", (event) =>
    document.documentElement.style.setProperty("--opacity", event.target.value / 100));
}

const zoom = document.getElementById("zoom");
for (const panel of document.querySelectorAll(".panel"))
  panel.addEventListener("click", () => {
    const picture = panel.querySelector("svg").cloneNode(true);
    for (const image of picture.querySelectorAll("[id]")) image.removeAttribute("id");
    zoom.querySelector(".view").className = `view ${panel.className}`;
    zoom.querySelector(".view").replaceChildren(picture);
    zoom.querySelector("h2").textContent = panel.getAttribute("aria-label").replace("Enlarge: ", "");
    zoom.showModal();
  });
zoom.addEventListener("click", (event) => {
  if (event.target === zoom) zoom.close();
});

// ---- on paper how it was scored is told

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.printed:not([open])")) {
    details.open = true;
    details.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-folded]")) {
    details.open = false;
    delete details.dataset.folded;
  }
});
