// The data of the page, and what every other script needs of it. Texts reach the page as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** The first element that a selector finds in `from`. */
function one(selector, from = document) {
  return from.querySelector(selector);
}

function all(selector, from = document) {
  return [...from.querySelectorAll(selector)];
}

/** An HTML element with attributes and children; strings become text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A column of a case's row, null where it is blank. */
function field(at, name) {
  const column = data.cases.columns[name];
  if (column === undefined || at < 0) return null;
  let value;
  if ("all" in column) value = column.all;
  else if ("at" in column) value = column.texts[column.at[at]];
  else value = column.each[at];
  return value === "" ? null : value;
}

/** 1234.5 as 1,234.5: four digits that matter, no exponent within what people read. */
function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(2);
  const decimals = Math.max(0, 3 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en", { maximumFractionDigits: decimals });
}

/** A line in words, without what is blank: n = 512, or batch 8, n = 2048. */
function lineText(section, line) {
  const { texts } = section.lines[line];
  return section.axes.flatMap((axis, at) => (texts[at] ? [`${data.axes[axis]} ${axis === "seq_len" ? "= " : ""}${texts[at]}`] : [])).join(", ");
}

/** 512, 1K, 128K: as ticks name sequence lengths. */
function lengthText(n) {
  if (n >= 1048576 && n % 1048576 === 0) return `${n / 1048576}M`;
  if (n >= 1024 && n % 1024 === 0) return `${n / 1024}K`;
  return String(n);
}

/** What the tools and the address ask for. `choice` has the plot that is chosen in a view, by its name;
 * `hidden` the providers that are hidden in a suite: one that is hidden in one suite is shown in the others. */
const state = {
  suite: null, kind: null, machine: "", run: "", words: "", hidden: new Map(), least: 0, most: Infinity,
  view: "", cell: "", choice: {},
};

/** The providers that are hidden in the suite that is shown. */
function hiddenNow() {
  return state.hidden.get(state.suite) ?? new Set();
}

const sections = all("section.table").map((element, at) => ({
  element,
  at,
  ...data.sections[at],
  plot: one(".plot", element),
  table: one("table", element),
}));
const sectionNamed = new Map(sections.map((section) => [section.name, section]));

/** The kind that a section shows: the chosen one where it has that, else its own first. */
function kindOf(section) {
  return state.kind in section.kinds ? state.kind : Object.keys(section.kinds)[0];
}

// What the tools let be seen: tables, plots and downloads all ask these three.

/** Whether a line of a section is shown, by its length. */
function shownLine(section, line) {
  const n = section.lines[line].n;
  return n >= state.least && n <= state.most;
}

/** Whether a column is shown, by its provider. */
function shownColumn(section, column) {
  return !hiddenNow().has(section.columns[column][0]);
}

/** Whether the figure of a case is shown, by the run that it is of. */
function shownCase(at) {
  return !state.run || at < 0 || field(at, "harness_commit") === state.run;
}

/** What a column is called where its provider does not say enough. */
function columnName([provider, over]) {
  return over ? `${provider} (${over})` : provider;
}

/** The index of a figure in a section's lists. */
function indexOf(section, line, column) {
  return line * section.columns.length + column;
}

/** What a section is, in one line: for downloads, copies and labels. */
function nameOf(section) {
  const title = one("h4", section.element).firstChild.textContent.trim();
  return `${title}, suite ${section.suite}, ${one(".under", section.element).textContent}`;
}
