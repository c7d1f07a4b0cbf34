// Tables are sorted by a click on a heading: first the largest or, of texts, the first; then the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    const number = Number.parseFloat(cell.dataset.v ?? cell.textContent);
    return Number.isNaN(number) ? null : number;
  };
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const numeric = heading.dataset.kind !== "text";
      const order = heading.getAttribute("aria-sort");
      const ascending = order ? order === "descending" : !numeric;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...body.rows];
      rows.sort((a, b) => {
        if (!numeric) {
          const difference = a.cells[column].textContent.localeCompare(b.cells[column].textContent);
          return ascending ? difference : -difference;
        }
        const [left, right] = [value(a, column), value(b, column)];
        if (left === null || right === null) return (left === null) - (right === null); // undefined ones stay below
        return ascending ? left - right : right - left;
      });
      body.append(...rows);
    });
  });
}
