// Plots of views: which one is chosen, when it is drawn, and reading it by pointer and by keys.

/** The plots that a view can show: those of its lines, and a distribution for each line with samples. */
function plotsOf(section) {
  if (section.plots) return section.plots;
  const plots = section.choices.map((choice, at) => ({ id: String(at), ...choice }));
  section.lines.forEach((line, at) => {
    const sampled = section.columns.some((_, column) => data.samples[section.cases[indexOf(section, at, column)]]?.samples_ms);
    if (sampled) plots.push({ id: `samples-${line.key}`, over: "samples", label: lineText(section, at), lines: [at], colored: [] });
  });
  section.plots = plots;
  return plots;
}

function chosenPlot(section) {
  const plots = plotsOf(section);
  return plots.find((plot) => plot.id === state.choice[section.name]) ?? plots[0];
}

function picture(section, plot, kind, width) {
  if (plot.over === "samples") return distributionOf(section, plot.lines[0], width);
  return plot.over === "provider" ? barsOf(section, plot, kind, width) : chartOf(section, plot, kind, width);
}

/** Draw a plot into its place, with a line of text that says what is under the pointer. */
function drawInto(place, section, plot, kind) {
  const width = Math.max(280, Math.min(place.clientWidth || 680, 1320));
  const made = picture(section, plot, kind, width);
  if (!made) {
    place.replaceChildren(make("p", { class: "under" }, "Nothing to draw of what is shown."));
    return;
  }
  place.replaceChildren(made.svg, listenToPlot(made, kind));
}

/** Draw the section's plot if it is in sight and no longer what was chosen. */
function redraw(section) {
  if (!section.seen || !section.stale || section.element.hidden) return;
  section.stale = false;
  const plot = chosenPlot(section);
  if (plot) drawInto(section.plot, section, plot, kindOf(section));
}

function told(spot, kind) {
  const band = spot.band ? `, 20th to 80th percentile ${number(spot.band[0])} to ${number(spot.band[1])}` : "";
  const unit = ["speedup", "memory", "floor"].includes(kind) && /[×%]/.test(spot.text) ? "" : ` ${data.kinds[kind]}`;
  const section = sectionNamed.get(spot.cell.split("/")[0]);
  return `${spot.name}, ${lineText(section, spot.line)}: ${spot.text}${unit}${band}`;
}

/** Read the point nearest to the pointer, or go from point to point with the keys; returns the text's element. */
function listenToPlot({ svg, spots, width }, kind) {
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
    const frame = svg.getBoundingClientRect();
    const scale = width / frame.width;
    const [px, py] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let [best, least] = [null, 60 ** 2];
    for (const spot of spots) {
      const distance = (spot.x - px) ** 2 + (spot.y - py) ** 2;
      if (distance < least) [best, least] = [spot, distance];
    }
    if (best !== now) show(best);
  });
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("click", () => now && now.at >= 0 && openCell(now.cell));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && now && now.at >= 0) openCell(now.cell);
    if (event.key === "Escape") show(null);
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    show(now ? next(spots, now, event.key) : spots[0]);
  });
  return tip;
}

/** Left and right along a line; up and down among the points of one place, as they lie. */
function next(spots, now, key) {
  const sideways = key === "ArrowLeft" || key === "ArrowRight";
  const among = spots.filter((spot) => (sideways ? spot.name === now.name : spot.n === now.n));
  among.sort((a, b) => (sideways ? a.n - b.n : b.y - a.y));
  const step = key === "ArrowRight" || key === "ArrowUp" ? 1 : -1;
  return among[among.indexOf(now) + step] ?? now;
}

/** Put the choice of plots and the buttons of downloads above each plot. */
function furnish(section) {
  const place = one(".actions", section.element);
  const plots = plotsOf(section);
  if (!plots.length) section.plot.remove();
  if (plots.length > 1) {
    const samples = make("optgroup", { label: "Distribution of samples" });
    const select = make("select", { "aria-label": `Plot of ${nameOf(section)}` });
    for (const plot of plots) (plot.over === "samples" ? samples : select).append(make("option", { value: plot.id }, plot.label));
    if (samples.children.length) select.append(samples);
    select.value = chosenPlot(section).id;
    select.addEventListener("change", () => {
      const choice = { ...state.choice, [section.name]: select.value };
      if (select.value === plots[0].id) delete choice[section.name];
      keep({ choice });
      Object.assign(section, { stale: true, seen: true });
      redraw(section);
    });
    section.select = select;
    place.append(make("label", {}, "Plot ", select));
  }
  place.append(...downloads(section));
}

function drawHero() {
  const place = one("#hero .plot");
  if (!place || !data.hero) return;
  const section = sections[data.hero[0]];
  drawInto(place, section, section.choices[data.hero[1]], Object.keys(section.kinds)[0]);
}

/** Draw plots as they come into sight, and all that are shown for print. */
function watchPlots() {
  const plotted = sections.filter((section) => plotsOf(section).length);
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
    drawHero();
    plotted.forEach((section) => {
      section.stale = true;
      redraw(section);
    });
  });
  addEventListener("beforeprint", () => plotted.filter((section) => !section.element.closest("[hidden]")).slice(0, 200).forEach(seen));
}
