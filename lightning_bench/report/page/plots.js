// Plots: lines over n on two logarithmic axes, drawn when they come into sight, with a point at a time to read.

const MARKERS = {
  o: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  s: (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  D: (r) => `M0,${-1.25 * r}L${1.25 * r},0L0,${1.25 * r}L${-1.25 * r},0z`,
  d: (r) => `M0,${-1.3 * r}L${0.8 * r},0L0,${1.3 * r}L${-0.8 * r},0z`,
  "^": (r) => `M0,${-1.2 * r}L${1.15 * r},${0.9 * r}H${-1.15 * r}z`,
  v: (r) => `M0,${1.2 * r}L${1.15 * r},${-0.9 * r}H${-1.15 * r}z`,
  "<": (r) => `M${-1.2 * r},0L${0.9 * r},${-1.15 * r}V${1.15 * r}z`,
  ">": (r) => `M${1.2 * r},0L${-0.9 * r},${-1.15 * r}V${1.15 * r}z`,
  X: (r) => cross(r, 45),
  P: (r) => cross(r, 0),
  p: (r) => star(r * 1.2, 5, 1),
  h: (r) => star(r * 1.2, 6, 1),
  8: (r) => star(r * 1.15, 8, 1),
  "*": (r) => star(r * 1.5, 5, 0.45),
};

function cross(r, turn) {
  const w = r * 0.45;
  const points = [[-w, -r], [w, -r], [w, -w], [r, -w], [r, w], [w, w], [w, r], [-w, r], [-w, w], [-r, w], [-r, -w], [-w, -w]];
  const [c, s] = [Math.cos((turn * Math.PI) / 180) * 1.15, Math.sin((turn * Math.PI) / 180) * 1.15];
  return `M${points.map(([x, y]) => `${(x * c - y * s).toFixed(2)},${(x * s + y * c).toFixed(2)}`).join("L")}z`;
}

function star(r, corners, inner) {
  const steps = inner === 1 ? corners : 2 * corners;
  const points = [];
  for (let i = 0; i < steps; i++) {
    const size = inner !== 1 && i % 2 ? r * inner : r;
    const angle = (2 * Math.PI * i) / steps - Math.PI / 2;
    points.push(`${(size * Math.cos(angle)).toFixed(2)},${(size * Math.sin(angle)).toFixed(2)}`);
  }
  return `M${points.join("L")}z`;
}

/** A provider's marker; black is the ink of the theme. */
function markerOf(stroke, size = 4) {
  const color = stroke.color === "#000000" ? "var(--ink)" : stroke.color;
  const fill = stroke.hollow ? "var(--paper)" : color;
  const path = draw("path", { d: (MARKERS[stroke.marker] ?? MARKERS.o)(size), "stroke-width": 1.3 });
  path.style.stroke = color;
  path.style.fill = fill;
  return path;
}

function lineOf(stroke, d) {
  const path = draw("path", { d, fill: "none", "stroke-width": 1.8, "stroke-linejoin": "round" });
  path.style.stroke = stroke.color === "#000000" ? "var(--ink)" : stroke.color;
  if (stroke.dashes.length) path.setAttribute("stroke-dasharray", stroke.dashes.map((dash) => dash * 1.6).join(" "));
  return path;
}

/** Powers of two between the ends, thinned to what fits; or the lengths themselves where there are none. */
function lengthTicks(lengths, room) {
  const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
  const powers = [];
  for (let i = Math.ceil(Math.log2(low)); 2 ** i <= high; i++) powers.push(2 ** i);
  const ticks = powers.length > 1 ? powers : [...new Set(lengths)];
  const step = Math.ceil(ticks.length / Math.max(2, room));
  return ticks.filter((_, at) => at % step === 0);
}

/** Plain numbers within a logarithmic axis: powers of ten, and steps between where those are few. */
function valueTicks(low, high) {
  let ticks = [];
  for (const steps of [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    ticks = [];
    for (let i = Math.floor(Math.log10(low)); i <= Math.ceil(Math.log10(high)); i++)
      for (const step of steps) {
        const tick = Number(`${step}e${i}`);
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    if (ticks.length >= 3) break;
  }
  return ticks;
}

/** The lines of a section in its present kind: provider, points with n, value, case and the band around it. */
function seriesOf(section) {
  const name = kindOf(section);
  const { value, text } = section.kinds[name];
  const width = section.columns.length;
  return section.columns
    .map(([provider, over], column) => ({
      provider,
      name: over ? `${provider} (${over})` : provider,
      points: section.lengths.flatMap((n, row) => {
        const at = row * width + column;
        if (!(value[at] > 0) || !(n > 0) || !shownLength(n)) return [];
        const found = section.cases[at];
        return [{ n, value: value[at], text: text[at], at: found, band: bandOf(found, name) }];
      }),
    }))
    .filter((line) => line.points.length && !state.hidden.has(line.provider));
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

/** What the lines are held against: the least bytes, the baseline, the outputs alone. */
function referenceOf(section, kind) {
  const points = new Map();
  const width = section.columns.length;
  section.cases.forEach((at, index) => {
    const n = section.lengths[Math.floor(index / width)];
    if (at < 0 || !shownLength(n)) return;
    const [bytes, gbps] = [field(at, "model_bytes"), field(at, "ceiling_gbps")];
    const floor = bytes !== null && gbps !== null ? bytes / gbps / 1e6 : field(at, "floor_ms");
    let value = null;
    if (kind === "ms") value = floor;
    else if (kind === "per_token" && floor !== null) value = floor * perToken(at);
    else if (kind === "floor" || kind === "speedup") value = 1;
    else if (kind === "memory" && field(at, "protocol") === "lbench") value = field(at, "ideal_mib");
    if (value !== null) points.set(n, value);
  });
  const measured = section.cases.find((at) => field(at, "ceiling_gbps") !== null) ?? -1;
  const of = field(measured, "ceiling_of");
  const bandwidth = of && of !== "copy" ? `the bandwidth of ${of} reads and writes` : "copy bandwidth";
  const names = { memory: "outputs alone", speedup: "the baseline" };
  return points.size > 1 ? { name: names[kind] ?? `least bytes at ${bandwidth}`, points } : null;
}

/** Draw the section's plot anew if it is in sight and stale. */
function redraw(section) {
  if (!section.plot || !section.seen || !section.stale || section.element.hidden) return;
  section.stale = false;
  const kind = kindOf(section);
  const series = seriesOf(section);
  section.plot.replaceChildren();
  if (!series.some((line) => line.points.length > 1)) {
    section.plot.append(make("p", { class: "under" }, "No line to draw: figures at fewer than two of the lengths shown."));
    return;
  }
  const chart = chartOf(section, kind, series, referenceOf(section, kind));
  section.plot.append(chart.svg, chart.tip, legendOf(series, chart.reference));
}

function legendOf(series, reference) {
  const items = series.map((line) => {
    const stroke = data.strokes[line.provider];
    const swatch = draw("svg", { width: 34, height: 14, viewBox: "0 -7 34 14", "aria-hidden": "true" }, lineOf(stroke, "M1,0H33"));
    swatch.append(draw("g", { transform: "translate(17,0)" }, markerOf(stroke)));
    return make("li", {}, swatch, line.name);
  });
  if (reference) {
    const swatch = draw("svg", { width: 34, height: 14, viewBox: "0 -7 34 14", "aria-hidden": "true" });
    swatch.append(draw("path", { d: "M1,0H33", class: "reference" }));
    items.push(make("li", {}, swatch, reference.name));
  }
  return make("ul", { class: "legend" }, ...items);
}

function chartOf(section, kind, series, reference) {
  const width = Math.max(280, Math.min(section.plot.clientWidth || 680, 1000));
  const height = Math.round(Math.max(220, Math.min(400, width * 0.48)));
  const box = { left: 64, right: 14, top: 10, bottom: 40 };
  const points = series.flatMap((line) => line.points);
  const lengths = points.map((point) => point.n);
  const values = [...points.flatMap((point) => [point.value, ...(point.band ?? [])]), ...(reference ? reference.points.values() : [])];
  const [low, high] = span(values, 1.08);
  const [first, last] = span(lengths, 1.12);
  const x = (n) => box.left + (Math.log(n / first) / Math.log(last / first)) * (width - box.left - box.right);
  const y = (v) => height - box.bottom - (Math.log(v / low) / Math.log(high / low)) * (height - box.top - box.bottom);
  const label = `${data.kinds[kind]} against n, ${series.length} lines. Arrow keys go from point to point, Enter opens its samples; the table below holds the same figures.`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "application", "aria-label": label });
  for (const tick of valueTicks(low, high)) {
    svg.append(draw("path", { class: "grid", d: `M${box.left},${y(tick)}H${width - box.right}` }));
    svg.append(draw("text", { x: box.left - 7, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  for (const tick of lengthTicks(lengths, (width - box.left - box.right) / 42)) {
    svg.append(draw("path", { class: "grid", d: `M${x(tick)},${box.top}V${height - box.bottom}` }));
    svg.append(draw("text", { x: x(tick), y: height - box.bottom + 16, "text-anchor": "middle" }, lengthText(tick)));
  }
  svg.append(draw("text", { x: (box.left + width - box.right) / 2, y: height - 6, "text-anchor": "middle" }, "sequence length n (tokens)"));
  svg.append(draw("text", { transform: `translate(13,${(height - box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, data.kinds[kind]));
  if (reference) {
    const ends = [...reference.points].sort((a, b) => a[0] - b[0]);
    svg.append(draw("path", { class: "reference", d: `M${ends.map(([n, v]) => `${x(n)},${y(v)}`).join("L")}` }));
  }
  for (const line of [...series].reverse()) {
    const stroke = data.strokes[line.provider];
    const banded = line.points.filter((point) => point.band);
    const group = draw("g", { "data-series": line.name });
    if (banded.length > 1) {
      const edge = (end) => banded.map((point) => `${x(point.n)},${y(point.band[end])}`);
      const band = draw("path", { d: `M${edge(1).join("L")}L${edge(0).reverse().join("L")}z`, opacity: 0.22 });
      band.style.fill = stroke.color === "#000000" ? "var(--ink)" : stroke.color;
      group.append(band);
    }
    group.append(lineOf(stroke, `M${line.points.map((point) => `${x(point.n)},${y(point.value)}`).join("L")}`));
    // A line of very many points keeps its last marker alone, to be told by.
    for (const point of line.points.length > 100 ? line.points.slice(-1) : line.points)
      group.append(draw("g", { transform: `translate(${x(point.n)},${y(point.value)})` }, markerOf(stroke)));
    svg.append(group);
  }
  const spots = series.flatMap((line) => line.points.map((point) => ({ ...point, line, x: x(point.n), y: y(point.value) })));
  return { svg, tip: listenToPlot(svg, spots, kind, width), reference };
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

function told(spot, kind) {
  const band = spot.band ? `, 20th to 80th percentile ${number(spot.band[0])} to ${number(spot.band[1])}` : "";
  const unit = ["speedup", "memory", "floor"].includes(kind) && /[×%]/.test(spot.text) ? "" : ` ${data.kinds[kind]}`;
  return `${spot.line.name}, n = ${spot.n}: ${spot.text}${unit}${band}`;
}

/** Read the point nearest to the pointer, or go from point to point with the keys; returns the tip. */
function listenToPlot(svg, spots, kind, width) {
  const tip = make("p", { class: "tip", "aria-live": "polite" });
  const ring = draw("circle", { r: 8, class: "ring", visibility: "hidden" });
  let now = null;
  svg.append(ring);
  const show = (spot) => {
    now = spot;
    ring.setAttribute("visibility", spot ? "visible" : "hidden");
    tip.textContent = spot ? told(spot, kind) : "";
    if (!spot) return;
    ring.setAttribute("cx", spot.x);
    ring.setAttribute("cy", spot.y);
  };
  svg.addEventListener("pointermove", (event) => {
    const scale = width / svg.getBoundingClientRect().width;
    const [px, py] = [event.offsetX * scale, event.offsetY * scale];
    let [best, least] = [null, 60 ** 2];
    for (const spot of spots) {
      const distance = (spot.x - px) ** 2 + (spot.y - py) ** 2;
      if (distance < least) [best, least] = [spot, distance];
    }
    if (best !== now) show(best);
  });
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("click", () => now && now.at >= 0 && (location.hash = `case-${now.at}`));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && now && now.at >= 0) location.hash = `case-${now.at}`;
    if (event.key === "Escape") show(null);
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    show(now ? next(spots, now, event.key) : spots[0]);
  });
  return tip;
}

/** Left and right along a line; up and down among the points of one length. */
function next(spots, now, key) {
  const sideways = key === "ArrowLeft" || key === "ArrowRight";
  const among = spots.filter((spot) => (sideways ? spot.line === now.line : spot.n === now.n));
  among.sort((a, b) => (sideways ? a.n - b.n : a.value - b.value));
  const step = key === "ArrowRight" || key === "ArrowUp" ? 1 : -1;
  return among[among.indexOf(now) + step] ?? now;
}

/** Draw plots as they come into sight, and all of them for print. */
function watchPlots() {
  const plotted = sections.filter((section) => section.plot);
  const seen = (section) => {
    section.seen = true;
    section.stale ??= true;
    redraw(section);
  };
  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => seen(plotted.find((section) => section.plot === entry.target))),
    { rootMargin: "400px" },
  );
  plotted.forEach((section) => watcher.observe(section.plot));
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    plotted.forEach((section) => {
      section.stale = true;
      redraw(section);
    });
  });
  addEventListener("beforeprint", () => plotted.slice(0, 200).forEach(seen));
}
