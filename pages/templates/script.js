"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const first = [...table.tBodies[0].rows];
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.order === undefined) return cell.textContent;
    return cell.dataset.order === "" ? NaN : Number(cell.dataset.order);
  };
  const compare = (a, b) => typeof a === "string" || typeof b === "string"
    ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", way);
      const missing = (value) => Number.isNaN(value) || value === "\u2013";
      table.tBodies[0].append(...first.slice().sort((one, other) => {
        const a = key(one, column), b = key(other, column);
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        return way === "ascending" ? compare(a, b) : compare(b, a);
      }));
    });
  });
}
