// Plots of one length: a bar per provider, families together; and the samples behind each, as a distribution.

const ROW = 20;
const APART = 1.5; // a larger ratio of medians would leave samples no width on a common axis

/** The providers with a figure on a line of a section: families together, the best first. */
function rankedOn(section, line, kind) {
  const { value, text } = section.kinds[kind];
  const found = section.columns.flatMap((column, at) => {
    const index = indexOf(section, line, at);
    if (!(value[index] > 0) || !shownColumn(section, at) || !shownCase(section.cases[index])) return [];
    const first = section.cases.indexOf(section.cases[index]) === index;
    return [{ first, name: columnName(column), family: column[2], value: value[index], text: text[index], at: section.cases[index], cell: cellName(section, line, at), line, n: 1 }];
  });
  const up = data.higher.includes(kind) ? -1 : 1;
  const best = new Map();
  for (const bar of found) best.set(bar.family, Math.min(best.get(bar.family) ?? Infinity, up * bar.value));
  return found.sort((a, b) => best.get(a.family) - best.get(b.family) || a.family.localeCompare(b.family) || up * (a.value - b.value));
}

/** Lay out rows with their names on the left, ruled off by family; returns what is drawn on. */
function rowsOf(rows, width, label) {
  const longest = Math.max(...rows.map((row) => row.name.length));
  const left = Math.min(width * 0.53, 14 + Math.min(longest, 40) * 6.7);
  const height = rows.length * ROW + 46;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "aria-label": label });
  rows.forEach((row, at) => {
    if (at && rows[at - 1].family !== row.family) svg.append(draw("path", { class: "grid", d: `M0,${at * ROW + 4}H${width}` }));
    svg.append(fitted({ x: left - 8, y: at * ROW + 18, "text-anchor": "end", class: "row-name" }, row.name, left - 10));
  });
  return { svg, left, height, foot: rows.length * ROW + 6 };
}

/** Bars of a line of a section in a kind; from zero, or on a logarithmic axis where the ratio is large. */
function barsOf(section, choice, kind, width) {
  const line = choice.lines[0];
  const bars = rankedOn(section, line, kind);
  if (!bars.length || !shownLine(section, line)) return null;
  const top = Math.max(...bars.map((bar) => bar.value));
  const low = Math.min(...bars.map((bar) => bar.value));
  const logarithmic = top / low > 30;
  const label = `${data.kinds[kind]} at ${lineText(section, line)}, ${bars.length} bars. Arrow keys go from bar to bar, Enter opens its samples; the table has the same figures.`;
  const { svg, left, height, foot } = rowsOf(bars, width, label);
  const right = width - 92;
  const start = logarithmic ? low / 1.6 : 0;
  const x = (v) => left + (logarithmic ? Math.log(v / start) / Math.log(top / start) : v / top) * (right - left);
  for (const tick of clearTicks(logarithmic ? valueTicks(start, top) : evenTicks(top), x, number)) {
    svg.append(draw("path", { class: "grid", d: `M${x(tick)},4V${foot}` }));
    svg.append(draw("text", { x: x(tick), y: foot + 15, "text-anchor": "middle" }, number(tick)));
  }
  const least = bars.map((bar) => (kind === "ms" ? field(bar.at, "floor_ms") : leastOf(bar.at, kind)));
  const drawn = (value) => value !== null && value >= start && value <= top;
  const unit = `${data.kinds[kind]}${logarithmic ? ", logarithmic" : ""}${least.some(drawn) ? "; upright stroke: the minimum" : ""}`;
  svg.append(axisText(unit, (left + right) / 2, width, height));
  bars.forEach((bar, at) => {
    bar.x = x(bar.value);
    bar.y = at * ROW + 14;
    if (logarithmic) {
      // A length from an arbitrary start says nothing: the place of the dot does.
      svg.append(draw("path", { class: "stem", d: `M${left},${bar.y}H${bar.x}` }));
      svg.append(draw("circle", { class: "bar", "data-series": bar.name, cx: bar.x, cy: bar.y, r: 4.5 }));
    } else svg.append(draw("rect", { class: "bar", "data-series": bar.name, x: left, y: bar.y - 6, width: Math.max(1, bar.x - left), height: 12 }));
    svg.append(draw("text", { x: bar.x + 9, y: bar.y + 4, class: "figure" }, bar.text));
    if (drawn(least[at])) svg.append(draw("path", { class: "least", d: `M${x(least[at])},${bar.y - 8}v16` }));
  });
  return { svg, spots: bars, width };
}

/** The text below an axis: around its middle, moved to where its letters are not cut off. */
function axisText(text, middle, width, height) {
  const half = Math.min(text.length * 3.2, width / 2);
  const x = Math.min(Math.max(middle, half), width - half);
  return draw("text", { x, y: height - 6, "text-anchor": "middle", class: "unit" }, text);
}

function evenTicks(top) {
  const step = [1, 2, 2.5, 5, 10].map((each) => each * 10 ** Math.floor(Math.log10(top / 4))).find((each) => top / each <= 5);
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, at) => at * step);
}

/** The samples of every provider on a line: in ms where medians are close, else relative to each median. */
function distributionOf(section, line, width) {
  const found = rankedOn(section, line, Object.keys(section.kinds)[0]).filter((row) => data.samples[row.at]?.samples_ms);
  const rows = found.filter((row) => row.first); // a published table has a case twice: its figure and its ratio
  if (!rows.length) return null;
  const medians = rows.map((row) => field(row.at, "median_ms"));
  const common = Math.max(...medians) / Math.min(...medians) < APART;
  const shown = rows.map((row, at) => data.samples[row.at].samples_ms.map((ms) => (common ? ms : (ms / medians[at] - 1) * 100)));
  const [low, high] = edges(shown.flat());
  const label = `Distribution of samples at ${lineText(section, line)}: ${rows.length} providers. Arrow keys go from one to the next, Enter opens its samples.`;
  const { svg, left, height, foot } = rowsOf(rows, width, label);
  const right = width - 100;
  const x = (v) => left + 6 + ((Math.min(Math.max(v, low), high) - low) / (high - low)) * (right - left - 12);
  const step = niceStep(high - low);
  const ticks = Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, at) => (Math.ceil(low / step) + at) * step);
  const text = (tick) => `${number(Math.round(tick * 1e6) / 1e6)}${common ? "" : " %"}`;
  for (const tick of clearTicks(ticks, x, text)) {
    svg.append(draw("path", { class: "grid", d: `M${x(tick)},4V${foot}` }));
    svg.append(draw("text", { x: x(tick), y: foot + 15, "text-anchor": "middle" }, text(tick)));
  }
  const unit = common ? "ms per sample; stroke: the median" : "deviation from the provider's median; stroke: the median";
  svg.append(axisText(unit, (left + right) / 2, width, height));
  rows.forEach((row, at) => {
    row.x = x(common ? medians[at] : 0);
    row.y = at * ROW + 14;
    const dots = shown[at].map((value, index) => `M${x(value).toFixed(1)},${row.y - 5 + ((index * 7) % 11)}h0`);
    svg.append(draw("path", { class: "dots", "data-series": row.name, d: dots.join("") }));
    svg.append(draw("path", { class: "least", d: `M${row.x},${row.y - 8}v16` }));
    svg.append(draw("text", { x: right + 8, y: row.y + 4, class: "figure" }, `${number(medians[at])} ms`));
  });
  return { svg, spots: rows, width };
}

/** The range that is drawn: of all values but the outermost hundredth, which lie at the edge. */
function edges(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const cut = Math.floor(sorted.length / 100);
  const [low, high] = [sorted[cut], sorted[sorted.length - 1 - cut]];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.01 || 1;
  return [low - room, high + room];
}

function niceStep(range) {
  const power = 10 ** Math.floor(Math.log10(range / 4));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => range / each <= 6);
}
