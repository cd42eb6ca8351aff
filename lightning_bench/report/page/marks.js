// Marks of plots: markers, lines, ticks of logarithmic axes, and names beside the ends of lines.

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

/** A provider's marker. */
function markerOf(stroke, size = 4) {
  const color = inkOf(stroke.color);
  const fill = stroke.hollow ? "var(--paper)" : color;
  const path = draw("path", { d: (MARKERS[stroke.marker] ?? MARKERS.o)(size), "stroke-width": 1.3 });
  path.style.stroke = color;
  path.style.fill = fill;
  return path;
}

function lineOf(stroke, d) {
  const path = draw("path", { d, fill: "none", "stroke-width": 1.8, "stroke-linejoin": "round" });
  path.style.stroke = inkOf(stroke.color);
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

/** The ticks whose labels, of letters 6 wide and centred at `x`, stay clear of those before them. */
function clearTicks(ticks, x, text) {
  let end = -Infinity;
  return ticks.filter((tick) => {
    const half = text(tick).length * 3.5;
    if (x(tick) - half < end + 6) return false;
    end = x(tick) + half;
    return true;
  });
}

/** A text that is drawn narrower than its letters, of about 6.2 each, where it would need more than `room`. */
function fitted(attributes, text, room) {
  const narrow = text.length * 6.2 > room ? { textLength: room, lengthAdjust: "spacingAndGlyphs" } : {};
  return draw("text", { ...attributes, ...narrow }, text);
}

const GREY = "#9a9a9a";

/** The stroke of a provider: grey where color could not tell it apart. */
function strokeOf(provider, colored) {
  const stroke = data.strokes[provider];
  return colored.includes(provider) ? stroke : { ...stroke, color: GREY };
}

/** Places at least `apart` from each other between `low` and `high`, as near to the wanted ones as they can be. */
function spread(wanted, apart, low, high) {
  const pools = [];
  wanted.forEach((place, index) => {
    let [mean, count] = [place - index * apart, 1];
    while (pools.length && pools.at(-1)[0] > mean) {
      const [before, members] = pools.pop();
      mean = (before * members + mean * count) / (members + count);
      count += members;
    }
    pools.push([mean, count]);
  });
  const most = Math.max(low, high - (wanted.length - 1) * apart);
  return pools.flatMap(([mean, count]) => Array(count).fill(mean)).map((mean, index) => Math.min(Math.max(mean, low), most) + index * apart);
}

/** Names beside the last points of lines, each joined to its point; `ends` have name, x, y and color. */
function nameEnds(ends, left, room, top, bottom) {
  const group = draw("g", { class: "names" });
  const ordered = [...ends].sort((a, b) => a.y - b.y);
  const places = spread(ordered.map((end) => end.y), 14, top, bottom);
  ordered.forEach((end, at) => {
    const join = draw("path", { d: `M${end.x + 5},${end.y}L${left - 3},${places[at]}`, fill: "none", "stroke-width": 0.6, class: "join" });
    join.style.stroke = inkOf(end.color);
    const text = fitted({ x: left, y: places[at] + 4, class: "name" }, end.name, room);
    text.style.fill = `color-mix(in oklab, ${inkOf(end.color)} 68%, var(--ink))`;
    group.append(join, text);
  });
  return group;
}

/** Black is the ink of the theme. */
function inkOf(color) {
  return color === "#000000" ? "var(--ink)" : color;
}
