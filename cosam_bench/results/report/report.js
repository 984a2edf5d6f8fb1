"use strict";

// Rows by one column; rows without a value come last in both directions, equal rows keep their order.
function sortBy(heading, direction) {
  const body = heading.closest("table").tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const isText = heading.dataset.kind === "text";
  const rows = Array.from(body.rows, (row) => ({ row, value: row.cells[heading.cellIndex].dataset.value }));
  const compare = (a, b) => (isText ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b));
  rows.sort((a, b) => {
    if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
    return sign * compare(a.value, b.value);
  });
  body.append(...rows.map((entry) => entry.row));
  for (const other of heading.parentElement.cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === heading ? direction : "none");
  }
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const now = heading.getAttribute("aria-sort");
    const turned = now === "ascending" ? "descending" : "ascending";
    sortBy(heading, now === "none" ? heading.dataset.first : turned);
  });
}

// A link to a method opens its section.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
window.addEventListener("hashchange", openTarget);
openTarget();

for (const button of document.querySelectorAll("button[data-open]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const section of button.closest("section").querySelectorAll("details")) {
      section.open = button.dataset.open === "yes";
    }
  });
}

// All sections are printed.
let closed = [];
window.addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  for (const section of closed) section.open = true;
});
window.addEventListener("afterprint", () => {
  for (const section of closed) section.open = false;
});
