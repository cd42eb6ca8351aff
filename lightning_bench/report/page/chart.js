// Charts of lines over n or over the batch, on two logarithmic axes.

/** The lines of a plot: provider, points with place, value, case and the band around it. */
function seriesOf(section, choice, name) {
  const { value, text } = section.kinds[name];
  return section.columns
    .map((column, at) => ({
      provider: column[0],
      name: columnName(column),
      points: choice.lines.filter((line) => shownLine(section, line)).flatMap((line) => {
        const index = indexOf(section, line, at);
        const found = section.cases[index];
        const place = section.lines[line][choice.over === "batch" ? "batch" : "n"];
        if (!(value[index] > 0) || !(place > 0) || !shownCase(found)) return [];
        return [{ n: place, line, value: value[index], text: text[index], at: found, cell: cellName(section, line, at), band: bandOf(found, name) }];
      }),
    }))
    .filter((line, at) => line.points.length && shownColumn(section, at));
}

function perToken(at) {
  return 1e6 / (field(at, "batch") * field(at, "seq_len"));
}

/** The 20th and 80th percentile in the unit of a kind of time, else null. */
function bandOf(at, kind) {
  const scale = kind === "ms" ? 1 : kind === "per_token" ? perToken(at) : null;
  const [low, high] = [field(at, "p20_ms"), field(at, "p80_ms")];
  return scale === null || low === null || high === null ? null : [low * scale, high * scale];
}

/** The minimum that a case can be compared with in a kind, null where there is none. */
function leastOf(at, kind) {
  const [bytes, gbps] = [field(at, "model_bytes"), field(at, "ceiling_gbps")];
  const floor = bytes !== null && gbps !== null ? bytes / gbps / 1e6 : field(at, "floor_ms");
  if (kind === "ms") return floor;
  if (kind === "per_token" && floor !== null) return floor * perToken(at);
  if (kind === "floor" || kind === "speedup") return 1;
  if (kind === "memory" && field(at, "protocol") === "lbench") return field(at, "ideal_mib");
  return null;
}

const ALIKE = 1.05; // minima of several runs differ by their bandwidths

/** What the lines are compared with: the minimum bytes, the baseline, the outputs; nothing where theirs differ. */
function referenceOf(section, choice, kind) {
  const points = new Map();
  for (const line of choice.lines.filter((each) => shownLine(section, each))) {
    const cases = section.columns.map((_, column) => section.cases[indexOf(section, line, column)]);
    const shown = cases.filter((at, column) => at >= 0 && shownColumn(section, column) && shownCase(at));
    const values = shown.map((at) => leastOf(at, kind)).filter((value) => value !== null);
    if (!values.length) continue;
    if (Math.max(...values) > ALIKE * Math.min(...values)) return null;
    points.set(section.lines[line][choice.over === "batch" ? "batch" : "n"], values.at(-1));
  }
  const names = { memory: "outputs", speedup: "baseline", floor: "floor" };
  return points.size > 1 ? { name: names[kind] ?? "minimum bytes", points } : null;
}

/** The label of an axis of batches: with the tokens in all where they are the same everywhere, as in print. */
function batchLabel(section, choice) {
  const tokens = new Set(choice.lines.map((line) => section.lines[line].n * section.lines[line].batch));
  const generated = section.cases.some((at) => field(at, "new_tokens") !== null);
  return tokens.size === 1 && !generated ? `batch (${[...tokens][0]} tokens in all)` : "batch";
}

/** Return the chart and its points for the pointer and the keys; null where no line has two points. */
function chartOf(section, choice, kind, width) {
  const series = seriesOf(section, choice, kind);
  if (!series.some((line) => line.points.length > 1)) return null;
  const reference = referenceOf(section, choice, kind);
  const longest = Math.max(...series.map((line) => line.name.length), reference ? reference.name.length : 0);
  const room = Math.min(width * 0.5, 24 + Math.min(longest, 40) * 6.6);
  const height = Math.round(Math.max(240, Math.min(430, width * 0.58), (series.length + 1) * 14 + 60));
  const points = series.flatMap((line) => line.points);
  const places = points.map((point) => point.n);
  const values = [...points.flatMap((point) => [point.value, ...(point.band ?? [])]), ...(reference ? reference.points.values() : [])];
  const [low, high] = span(values, 1.08);
  const [first, last] = span(places, 1.12);
  const ticks = valueTicks(low, high);
  const box = { left: 26 + 7 * Math.max(4, ...ticks.map((tick) => number(tick).length)), right: room, top: 10, bottom: 40 };
  const right = width - box.right;
  const foot = height - box.bottom;
  const x = (n) => box.left + (Math.log(n / first) / Math.log(last / first)) * (right - box.left);
  const y = (v) => foot - (Math.log(v / low) / Math.log(high / low)) * (foot - box.top);
  const over = choice.over === "batch" ? batchLabel(section, choice) : "sequence length n (tokens)";
  const label = `${data.kinds[kind]} against ${over}, ${series.length} lines. Arrow keys go from point to point, Enter opens its samples; the table has the same figures.`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "aria-label": label });
  for (const tick of ticks) {
    svg.append(draw("path", { class: "grid", d: `M${box.left},${y(tick)}H${right}` }));
    svg.append(draw("text", { x: box.left - 7, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  for (const tick of lengthTicks(places, (right - box.left) / 42)) {
    svg.append(draw("path", { class: "grid", d: `M${x(tick)},${box.top}V${foot}` }));
    svg.append(draw("text", { x: x(tick), y: foot + 16, "text-anchor": "middle" }, lengthText(tick)));
  }
  svg.append(draw("text", { x: (box.left + right) / 2, y: height - 6, "text-anchor": "middle" }, over));
  svg.append(draw("text", { transform: `translate(13,${foot / 2}) rotate(-90)`, "text-anchor": "middle", class: "unit" }, data.kinds[kind]));
  const ends = [];
  if (reference) {
    const line = [...reference.points].sort((a, b) => a[0] - b[0]);
    svg.append(draw("path", { class: "reference", d: `M${line.map(([n, v]) => `${x(n)},${y(v)}`).join("L")}` }));
    ends.push({ name: reference.name, x: x(line.at(-1)[0]), y: y(line.at(-1)[1]), color: GREY });
  }
  const ordered = [...series].sort((a, b) => choice.colored.includes(a.provider) - choice.colored.includes(b.provider));
  for (const line of ordered) {
    const stroke = strokeOf(line.provider, choice.colored);
    line.points.sort((a, b) => a.n - b.n);
    svg.append(lineGroup(line, stroke, x, y));
    ends.push({ name: line.name, x: x(line.points.at(-1).n), y: y(line.points.at(-1).value), color: stroke.color });
  }
  svg.append(nameEnds(ends, right + 16, width - right - 18, box.top + 6, foot));
  const spots = series.flatMap((line) => line.points.map((point) => ({ ...point, name: line.name, x: x(point.n), y: y(point.value) })));
  return { svg, spots, width };
}

function lineGroup(line, stroke, x, y) {
  const group = draw("g", { "data-series": line.name });
  const banded = line.points.filter((point) => point.band);
  if (banded.length > 1) {
    const edge = (end) => banded.map((point) => `${x(point.n)},${y(point.band[end])}`);
    const band = draw("path", { d: `M${edge(1).join("L")}L${edge(0).reverse().join("L")}z`, opacity: 0.22 });
    band.style.fill = inkOf(stroke.color);
    group.append(band);
  }
  group.append(lineOf(stroke, `M${line.points.map((point) => `${x(point.n)},${y(point.value)}`).join("L")}`));
  // A line of very many points keeps its last marker alone, to be told by.
  for (const point of line.points.length > 100 ? line.points.slice(-1) : line.points)
    group.append(draw("g", { transform: `translate(${x(point.n)},${y(point.value)})` }, markerOf(stroke)));
  return group;
}

function span(values, room) {
  let [low, high] = [Infinity, 0];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const factor = (high / low) ** 0.04 * room;
  return [low / factor, high * factor];
}
