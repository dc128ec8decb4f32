"""The style sheet and the script of a report: small, and of nobody else's."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f5f6f8; --ink: #1b1f24; --quiet: #5a6472; --line: #d9dde3;
  --link: #0a4275; --broke: #a83210; --done: #1f6b4a; --mark: #fdeee6; --edge: #c2481a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --raised: #1e2329; --ink: #e4e8ee; --quiet: #9aa5b4; --line: #343b45;
    --link: #8cc0ea; --broke: #f0906c; --done: #7cc9a3; --mark: #3a2419; --edge: #e0764a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 72rem; padding: 1.5rem clamp(0.9rem, 3vw, 2.5rem) 4rem;
  background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.4rem 0; }
h2 {
  font-size: 1.25rem; margin: 2.6rem 0 0.6rem; padding-top: 0.9rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1.02rem; margin: 1.8rem 0 0.4rem; }
p, ul { margin: 0.5rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
li { margin: 0.25rem 0; }
a { color: var(--link); }
.quiet, figcaption, caption { color: var(--quiet); font-size: 0.88rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0.8rem 0; font-size: 0.92rem; }
.notes { border-left: 3px solid var(--edge); background: var(--raised); padding: 0.5rem 0.9rem; }
.said { font-size: 1.06rem; }
figure { margin: 1rem 0; }
figcaption { max-width: 46rem; margin-top: 0.4rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible, pre:focus-visible, button:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px;
}
.paper {
  background: #ffffff; border: 1px solid var(--line); border-radius: 4px; padding: 10px;
  width: fit-content; max-width: 100%;
}
.paper svg { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.paper svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { border-collapse: collapse; font-size: 0.88rem; margin: 0.6rem 0; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: 0.35rem; }
th, td { padding: 0.32rem 0.7rem; text-align: left; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--quiet); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; }
tbody th, tbody td { white-space: nowrap; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
tbody th.name { white-space: normal; min-width: 8.5rem; max-width: 24rem; }
tbody th { overflow-wrap: anywhere; }
.broke { color: var(--broke); } .done { color: var(--done); }
thead button {
  all: unset; cursor: pointer; white-space: nowrap;
}
thead button::after { content: " \\2195"; opacity: 0.45; }
th[aria-sort="ascending"] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: " \\2193"; opacity: 1; }
.settings tbody th {
  position: sticky; left: 0; background: var(--ground); white-space: normal;
  min-width: 8.5rem; max-width: 45vw;
}
.settings .differs th { box-shadow: inset 3px 0 var(--edge); font-weight: 700; }
.settings .differs td { background: var(--mark); }
.settings td.other { font-weight: 700; text-decoration: underline; text-underline-offset: 3px; }
.settings td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 10rem; }
.choice { display: inline-flex; gap: 0.5rem; align-items: center; font-size: 0.92rem; }
.alike:has(.only:checked) tbody tr:not(.differs) { display: none; }
pre {
  background: var(--raised); border: 1px solid var(--line); border-radius: 4px; margin: 0.5rem 0;
  padding: 0.6rem 0.8rem; font: 0.85rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
  overflow-x: auto;
}
dl { font-size: 0.92rem; margin: 0.6rem 0; }
dt { color: var(--quiet); margin-top: 0.4rem; }
dd { margin: 0; min-width: 0; }
@media (min-width: 46rem) {
  dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1rem; }
  dt { margin-top: 0; }
}
@media (min-width: 60rem) {
  tbody th.name { min-width: 19rem; }
  .settings tbody th { min-width: 15rem; }
}
@media print { .scroll { overflow: visible; } nav, .choice { display: none; } }
"""

SCRIPT = """
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
      const missing = (value) => Number.isNaN(value) || value === "\\u2013";
      table.tBodies[0].append(...first.slice().sort((one, other) => {
        const a = key(one, column), b = key(other, column);
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        return way === "ascending" ? compare(a, b) : compare(b, a);
      }));
    });
  });
}
"""
