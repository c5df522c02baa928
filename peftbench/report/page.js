"use strict";
// Sorting: by number where both cells have one, by text otherwise; what is missing stays at the end.
const key = (row, column) => row.cells[column].dataset.sort;
const order = (a, b) => {
  const numbers = [Number(a), Number(b)];
  return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  // The whole heading is there to click on; the button in it is for the keyboard, and clicks bubble up from it.
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    const known = rows.filter((row) => key(row, column) !== undefined);
    const missing = rows.filter((row) => key(row, column) === undefined);
    known.sort((a, b) => (down ? -1 : 1) * order(key(a, column), key(b, column)));
    table.tBodies[0].append(...known, ...missing);
  }));
}
// Filtering: a row stays if it contains every word.
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...document.querySelectorAll("table.rows tbody tr")];
  for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  const left = rows.filter((row) => !row.hidden).length;
  document.getElementById("matches").textContent = words.length ? `${left} of ${rows.length} rows` : "";
});
// Columns: the details are there for who asks.
const all = document.getElementById("all");
const widen = () => document.querySelectorAll("table.sortable").forEach((table) => table.classList.toggle("all", all.checked));
all.addEventListener("change", widen);
widen();
// Charts: what a mark says is shown for the mark nearest to the pointer, or one after the other with the arrow keys.
const NEAR = 24;
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
let shown = null;
const middle = (element) => {
  const box = element.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
};
const show = (mark, x, y) => {
  if (shown) shown.classList.remove("on");
  shown = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("on");
  tip.textContent = mark.dataset.hint;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + 16 + box.height < innerHeight ? y + 16 : Math.max(4, y - box.height - 12)}px`;
};
for (const svg of document.querySelectorAll("figure svg")) {
  const marks = [...svg.querySelectorAll(".mark")];
  const spots = [...svg.querySelectorAll(".mark use")];
  for (const mark of marks) {
    const title = mark.querySelector("title");
    mark.dataset.hint = title.textContent;
    title.remove();
  }
  svg.setAttribute("tabindex", "0");
  const nearest = (x, y) => {
    const far = ([a, b]) => Math.hypot(a - x, b - y);
    const [spot] = spots.map((one) => [one, far(middle(one))]).reduce((a, b) => (b[1] < a[1] ? b : a), [null, NEAR]);
    return spot && spot.closest(".mark");
  };
  const point = (event) => show(event.target.closest(".mark") || nearest(event.clientX, event.clientY), event.clientX, event.clientY);
  svg.addEventListener("pointermove", point);
  svg.addEventListener("click", point);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") show(null);
    if (!step || !marks.length) return;
    event.preventDefault();
    const at = marks.indexOf(shown);
    const next = marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length];
    show(next, ...middle(next.querySelector("use") || next));
  });
}
