// Tables: figures of the chosen kind, hidden columns and rows, and sorting by a column's heading.

/** Write the section's figures in its present kind. */
function fill(section) {
  const name = kindOf(section);
  if (!section.table || section.shown === name) return;
  const kind = section.kinds[name];
  const best = new Set(kind.best);
  const width = section.columns.length;
  section.shown = name;
  const caption = one("caption", section.table);
  caption.textContent =
    state.kind === null || name === state.kind || Object.keys(section.kinds).length === 1
      ? kind.unit
      : `${kind.unit} (no ${data.kinds[state.kind]} in these rows)`;
  for (const [row, line] of lines(section).entries()) {
    for (let column = 0; column < width; column++) {
      const at = row * width + column;
      const cell = line.cells[column + 1];
      const target = cell.firstElementChild ?? cell;
      target.textContent = kind.text[at];
      cell.classList.toggle("best", best.has(at));
    }
  }
  one(".notes", section.element).replaceChildren(...kind.notes.map((note) => make("li", {}, note)));
}

/** The rows of a table in the order of its data, however they are sorted. */
function lines(section) {
  section.lines ??= [...section.table.tBodies[0].rows];
  return section.lines;
}

/** Hide the columns of hidden providers and the rows of lengths that were not asked for. */
function hide(section) {
  if (!section.table) return;
  const hidden = section.columns.map(([provider]) => state.hidden.has(provider));
  const heads = section.table.tHead.rows[0].cells;
  hidden.forEach((is, column) => (heads[column + 1].hidden = is));
  const columns = hidden.some(Boolean) || section.columnsHidden;
  section.columnsHidden = hidden.some(Boolean);
  for (const [row, line] of lines(section).entries()) {
    line.hidden = !shownLength(section.lengths[row]);
    if (columns) hidden.forEach((is, column) => (line.cells[column + 1].hidden = is));
  }
}

/** Sort by a heading: its first press sorts upwards, the next downwards; what has no figure stays last. */
function sort(section, column) {
  const heads = [...section.table.tHead.rows[0].cells];
  const upwards = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", upwards ? "ascending" : "descending");
  section.sorted = { column, upwards };
  order(section);
  const by = column === 0 ? "n" : section.columns[column - 1].join(" ").trim();
  say(`Sorted by ${by}, ${upwards ? "smallest" : "largest"} first.`);
}

function order(section) {
  if (!section.sorted) return;
  const { column, upwards } = section.sorted;
  const width = section.columns.length;
  const values = section.kinds[kindOf(section)].value;
  const key = (row) => (column === 0 ? section.lengths[row] : values[row * width + column - 1]);
  const rows = section.lengths.map((_, row) => row);
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (upwards ? x - y : y - x) || a - b;
  });
  section.table.tBodies[0].append(...rows.map((row) => lines(section)[row]));
}

function listenToHeads(section) {
  section.table?.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sort(section, button.parentElement.cellIndex);
  });
}
