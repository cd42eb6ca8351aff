// Downloads and copies of a view: its rows as CSV, its table as Markdown, its plot as SVG and PNG.

const SHOWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-weight", "visibility"];
const PIXELS = 2; // of a PNG for each of the page

function downloads(section) {
  const button = (text, act) => {
    const made = make("button", { type: "button" }, text);
    made.addEventListener("click", () => act(section, made));
    return made;
  };
  const found = [button("CSV", saveCsv), button("Copy as Markdown", copyMarkdown)];
  if (plotsOf(section).length) found.push(button("SVG", saveSvg), button("PNG", savePng));
  return found;
}

function save(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  say(`${name} is saved.`);
}

/** The cases behind what the table shows, in its order. */
function casesShown(section) {
  return section.lines.flatMap((_, line) =>
    section.columns.flatMap((_, column) => {
      const at = section.cases[indexOf(section, line, column)];
      return at >= 0 && shownLine(section, line) && shownColumn(section, column) && shownCase(at) ? [at] : [];
    }),
  );
}

/** The rows behind the table, as lbench wrote them: lbench report and lbench compare read the file. */
function csvOf(section) {
  const names = Object.keys(data.meanings);
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = [...new Set(casesShown(section))].map((at) => names.map((name) => quoted(String(field(at, name) ?? ""))).join(","));
  return `${[names.join(","), ...rows].join("\n")}\n`;
}

function saveCsv(section) {
  save(`${section.name}.csv`, new Blob([csvOf(section)], { type: "text/csv" }));
}

/** The table as it is shown, for an issue or a pull request. */
function markdownOf(section) {
  const kind = section.kinds[kindOf(section)];
  const best = new Set(kind.best);
  const escaped = (text) => text.replace(/([\\`*_[\]<>|#~])/g, "\\$1");
  const columns = section.columns.map((_, column) => column).filter((column) => shownColumn(section, column));
  const head = [...section.axes.map((axis) => data.axes[axis]), ...columns.map((column) => columnName(section.columns[column]))];
  const rows = section.lines.flatMap((line, at) => {
    if (!shownLine(section, at)) return [];
    const figures = columns.map((column) => {
      const index = indexOf(section, at, column);
      const text = shownCase(section.cases[index]) ? escaped(kind.text[index]) : "";
      return best.has(index) && text ? `**${text}**` : text;
    });
    return [[...line.texts, ...figures]];
  });
  const lines = [head.map(escaped), head.map(() => "---:"), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
  return `**${escaped(nameOf(section))}**: ${escaped(kind.unit)}\n\n${lines.join("\n")}\n`;
}

async function copyMarkdown(section, button) {
  const text = markdownOf(section);
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text, button); // a page from a file may not use the clipboard's own interface
  }
  say("The table is copied as Markdown.");
}

function copyBySelection(text, button) {
  const area = make("textarea", { "aria-hidden": "true", class: "copied" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  button.focus();
}

/** The section's plot as a document of its own: colors and letters written out, its name above it. */
function svgOf(section) {
  if (!one("svg", section.plot)) Object.assign(section, { seen: true, stale: true });
  redraw(section);
  const shown = one("svg", section.plot);
  if (!shown) return null;
  const copy = shown.cloneNode(true);
  const copies = all("*", copy);
  all("*", shown).forEach((element, at) => {
    const style = getComputedStyle(element);
    for (const name of SHOWN) copies[at].setAttribute(name, plainColor(style.getPropertyValue(name)));
    copies[at].removeAttribute("style");
    copies[at].removeAttribute("class");
  });
  one("circle:last-of-type", copy)?.remove(); // the ring around the point that is read
  const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
  const root = getComputedStyle(document.body);
  const ink = plainColor(root.color);
  for (const name of ["tabindex", "role", "aria-label"]) copy.removeAttribute(name);
  copy.setAttribute("viewBox", `0 -26 ${width} ${height + 26}`);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height + 26);
  copy.setAttribute("font-family", "system-ui, sans-serif");
  const name = `${nameOf(section)}. ${chosenPlot(section).label}: ${data.kinds[kindOf(section)]}`;
  copy.prepend(
    draw("title", {}, name),
    draw("rect", { x: 0, y: -26, width, height: height + 26, fill: plainColor(root.backgroundColor) }),
    draw("text", { x: 8, y: -9, fill: ink, "font-size": "13px", "font-weight": 600, textLength: Math.min(name.length * 6.4, width - 16), lengthAdjust: "spacingAndGlyphs" }, name),
  );
  return { text: new XMLSerializer().serializeToString(copy), width, height: height + 26 };
}

/** A color that every program knows: the browser's own notations become #rrggbb. */
function plainColor(value) {
  if (!/^(ok|color|lab|lch)/.test(value)) return value;
  const brush = make("canvas", { width: 1, height: 1 }).getContext("2d");
  brush.fillStyle = value;
  brush.fillRect(0, 0, 1, 1);
  return `#${[...brush.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

function saveSvg(section) {
  const made = svgOf(section);
  if (made) save(`${section.name}.svg`, new Blob([made.text], { type: "image/svg+xml" }));
}

function savePng(section) {
  const made = svgOf(section);
  if (!made) return;
  const image = new Image();
  image.addEventListener("load", () => {
    const canvas = make("canvas", { width: made.width * PIXELS, height: made.height * PIXELS });
    const brush = canvas.getContext("2d");
    brush.scale(PIXELS, PIXELS);
    brush.drawImage(image, 0, 0);
    canvas.toBlob((blob) => save(`${section.name}.png`, blob), "image/png");
  });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(made.text)}`;
}
