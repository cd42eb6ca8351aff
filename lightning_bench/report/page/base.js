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

/** 512, 1K, 128K: as ticks name sequence lengths. */
function lengthText(n) {
  if (n >= 1048576 && n % 1048576 === 0) return `${n / 1048576}M`;
  if (n >= 1024 && n % 1024 === 0) return `${n / 1024}K`;
  return String(n);
}

/** What the tools ask for: the kind that is chosen, the providers that are hidden, and the lengths shown. */
const state = { kind: null, hidden: new Set(), least: 0, most: Infinity };

const sections = all("section.table").map((element, at) => ({
  element,
  at,
  ...data.sections[at],
  plot: one(".plot", element),
  table: one("table", element),
  drawn: null,
}));

/** The kind that a section shows: the chosen one where it has that, else its own first. */
function kindOf(section) {
  return state.kind in section.kinds ? state.kind : Object.keys(section.kinds)[0];
}

function shownLength(n) {
  return n >= state.least && n <= state.most;
}
