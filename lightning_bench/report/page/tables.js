// Tables: figures of the chosen kind, hidden columns and rows, and sorting by a column's heading.

/** The element of every figure by its index, the rows in the order of the data, and the headings. */
function partsOf(section) {
  if (section.parts) return section.parts;
  const rows = [...section.table.tBodies[0].rows];
  const heads = [...section.table.tHead.rows[0].cells];
  const { lines, columns, axes, transposed } = section;
  const cells = lines.flatMap((_, line) =>
    columns.map((_, column) => (transposed ? rows[column].cells[line + 1] : rows[line].cells[column + axes.length])),
  );
  const before = transposed ? 1 : axes.length;
  section.parts = { rows, heads, cells, before };
  return section.parts;
}

/** Write the section's figures in its present kind, those that are not shown as blanks. */
function fill(section) {
  if (!section.table) return;
  const name = kindOf(section);
  const kind = section.kinds[name];
  const wanted = one("input[name=kind]:checked")?.value ?? name;
  one("caption", section.table).textContent =
    name === wanted || Object.keys(section.kinds).length === 1 ? kind.unit : `${kind.unit} (no ${data.kinds[wanted]} in these rows)`;
  const blank = section.cases.map((at) => !shownCase(at));
  const figures = `${name} ${blank.flatMap((is, at) => (is ? [at] : []))}`;
  if (figures === (section.figures ?? `${Object.keys(section.kinds)[0]} `)) return; // the page came with those of its first kind
  section.figures = figures;
  const best = new Set(kind.best);
  partsOf(section).cells.forEach((cell, at) => {
    const seen = !blank[at];
    (cell.firstElementChild ?? cell).textContent = seen ? kind.text[at] : "";
    cell.classList.toggle("best", seen && best.has(at));
  });
  one(".notes", section.element).replaceChildren(...kind.notes.map((note) => make("li", {}, note)));
}

/** Hide the columns of hidden providers and the rows of lengths that were not asked for, or the other way. */
function hide(section) {
  if (!section.table) return;
  const { rows, heads, before } = partsOf(section);
  const gone = [section.lines.map((_, line) => !shownLine(section, line)), section.columns.map((_, column) => !shownColumn(section, column))];
  const [down, across] = section.transposed ? [gone[1], gone[0]] : gone;
  const changed = across.some(Boolean) || section.narrowed;
  section.narrowed = across.some(Boolean);
  across.forEach((is, at) => (heads[at + before].hidden = is));
  rows.forEach((row, at) => {
    row.hidden = down[at];
    if (changed) across.forEach((is, column) => (row.cells[column + before].hidden = is));
  });
}

/** Sort by a heading: its first press sorts upwards, the next downwards; what has no figure stays last. */
function sort(section, column) {
  const { heads } = partsOf(section);
  const upwards = heads[column].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", upwards ? "ascending" : "descending");
  section.sorted = { column, upwards };
  order(section);
  say(`Sorted by ${one("button", heads[column]).textContent}, ${upwards ? "smallest" : "largest"} first.`);
}

/** What a row is sorted by in a column: a value of its shape, a name, or a figure. */
function sortKey(section, row, column) {
  const { before } = partsOf(section);
  if (column < before) return section.transposed ? section.columns[row][0] : section.lines[row].values[column];
  const [line, of] = section.transposed ? [column - before, row] : [row, column - before];
  return section.kinds[kindOf(section)].value[indexOf(section, line, of)];
}

function order(section) {
  if (!section.sorted) return;
  const { column, upwards } = section.sorted;
  const { rows } = partsOf(section);
  const keys = rows.map((_, row) => sortKey(section, row, column));
  const places = rows.map((_, row) => row);
  places.sort((a, b) => {
    const [x, y] = [keys[a], keys[b]];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return (upwards ? 1 : -1) * (x < y ? -1 : x > y ? 1 : 0) || a - b;
  });
  section.table.tBodies[0].append(...places.map((row) => rows[row]));
}

function listenToTable(section) {
  section.table?.addEventListener("click", (event) => {
    const button = event.target.closest("thead button");
    if (button) sort(section, button.parentElement.cellIndex);
    const link = event.target.closest("tbody a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openCell(new URLSearchParams(link.hash.slice(1)).get("cell"));
  });
}
