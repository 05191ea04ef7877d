"use strict";
// A table of class "sorts" is sorted by the column whose heading is pressed: numbers by size, else by the alphabet.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const number = (text) => (text === "" || text === "-" ? NaN : Number(text.replace(/[, %]/g, "")));
      const compare = (a, b) => {
        const [x, y] = [number(key(a)), number(key(b))];
        if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1; // what has no number comes last, either way
        const order = isNaN(x) ? key(a).localeCompare(key(b)) : x - y;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
