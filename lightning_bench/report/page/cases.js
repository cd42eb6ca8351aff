// One case in a dialog: its row with what each column means, and the samples behind its figure.

const SAMPLE_NAMES = {
  samples_ms: "Samples, ms, in the order of the run",
  call_ms: "What an eager caller waited, launch included, ms",
  graph_ms: "CUDA-graph replays, ms",
  sm_clock_mhz: "SM clock read between the samples, MHz",
  power_w: "Board power read between the samples, W",
};

/** Put a case into the address, which opens its dialog; going back closes it. */
function openCell(cell) {
  keep({ cell }, true);
  showCell();
}

/** Open the dialog for the case in the state, or close it where that names none. */
function showCell() {
  const dialog = one("#case");
  const at = state.cell ? caseNamed(state.cell) : -1;
  if (at < 0) {
    if (dialog.open) dialog.close();
    return;
  }
  const names = ["provider", "model", "direction"].map((name) => field(at, name)).filter(Boolean);
  one("#case-title").textContent = [...names, `n = ${field(at, "seq_len")}`].join(", ");
  one("#case-body").replaceChildren(...caseParts(at));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  one("#case-title").focus();
}

function caseParts(at) {
  const parts = [make("p", { class: "under" }, field(at, "case_id"))];
  const reason = field(at, "reason");
  parts.push(make("p", {}, `Status: ${field(at, "status")}${reason ? `. ${reason}` : ""}`));
  const samples = data.samples[at];
  if (samples) {
    for (const name of Object.keys(SAMPLE_NAMES)) if (name in samples) parts.push(...sampleParts(at, name, samples[name]));
  } else parts.push(make("p", {}, whyNoSamples(at)));
  parts.push(make("h3", {}, "The row"), rowTable(at));
  return parts;
}

function whyNoSamples(at) {
  if (field(at, "metric") === "memory") return "No samples: memory is counted by the allocator, not sampled.";
  if (field(at, "protocol") === "paper") return "No samples: protocol paper keeps its mean alone, as the scripts did.";
  if (!["ok", "unstable"].includes(field(at, "status"))) return "No samples: this case has no figure.";
  const file = String(field(at, "source")).replace(/\.csv$/, ".samples.jsonl");
  return `No samples of this case lie in ${file}.`;
}

function sampleParts(at, name, values) {
  const about = `${values.length} values, ${number(Math.min(...values))} to ${number(Math.max(...values))}`;
  const list = make("ol", { class: "values", tabindex: 0 }, ...values.map((value) => make("li", {}, String(value))));
  const details = make("details", {}, make("summary", {}, `${SAMPLE_NAMES[name]}: ${about}`), list);
  if (name !== "samples_ms") return [details];
  details.open = true;
  return [make("h3", {}, "Samples"), strip(at, values), details];
}

/** Samples as dots in their order, with the median and its 95 % interval. */
function strip(at, values) {
  const [width, height, left] = [Math.min(640, innerWidth - 60), 170, 64]; // as wide as the dialog: its letters keep their size
  const [low, high] = [field(at, "ci_low_ms"), field(at, "ci_high_ms")];
  const median = field(at, "median_ms");
  const known = [...values, low, high, median].filter((value) => value !== null);
  let [least, most] = [Math.min(...known), Math.max(...known)];
  const room = (most - least) * 0.08 || most * 0.01 || 1;
  [least, most] = [least - room, most + room];
  const x = (index) => left + 10 + (index / Math.max(1, values.length - 1)) * (width - left - 20);
  const y = (value) => 8 + ((most - value) / (most - least)) * (height - 34);
  const interval = low === null ? "" : `, 95 % interval of the median ${number(low)} to ${number(high)} ms`;
  const label = `${values.length} samples${median === null ? "" : `, median ${number(median)} ms`}${interval}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "strip" });
  if (low !== null && high !== null)
    svg.append(draw("rect", { class: "interval", x: left, y: y(high), width: width - left, height: Math.max(1, y(low) - y(high)) }));
  if (median !== null) svg.append(draw("path", { class: "median", d: `M${left},${y(median)}H${width}` }));
  for (const value of [least + room, most - room])
    svg.append(draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  svg.append(draw("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, "sample, in the order of the run"));
  values.forEach((value, index) => svg.append(draw("circle", { class: "sample", cx: x(index), cy: y(value), r: 3 })));
  return make("figure", {}, svg, make("figcaption", {}, `${label}. Line: the median; band: its interval.`));
}

function rowTable(at) {
  const body = make("tbody");
  for (const [name, meaning] of [...Object.entries(data.meanings), ["source", "the file that the row is from"]]) {
    const value = field(at, name);
    if (value === null) continue;
    body.append(make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value)), make("td", {}, meaning)));
  }
  const head = make("tr", {}, ...["column", "value", "meaning"].map((text) => make("th", { scope: "col" }, text)));
  return make("table", { class: "words" }, make("caption", {}, "What is blank in the row is left out"), make("thead", {}, head), body);
}

function listenToCases() {
  const dialog = one("#case");
  one("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => state.cell && keep({ cell: "" }));
}
