// The tools above the tables: which figure, which tables, which lengths, which providers; and the theme.

/** Tell a screen reader, and whoever looks, what a tool did. */
function say(text) {
  one("#said").textContent = text;
}

function inSuite(section) {
  return state.suite === "*" || section.suite === state.suite || !one("#suites");
}

/** Offer the values that the suite has in a list, of which `all` is the first; ask for no other. */
function offerIn(id, found) {
  const list = one(`#${id}`);
  if (!list) return;
  const values = new Set(found);
  for (const option of [...list.options].slice(1)) option.hidden = option.disabled = !values.has(option.value);
  if (state[id] && !values.has(state[id])) keep({ [id]: "" });
  list.value = state[id];
  list.parentElement.hidden = values.size < 2;
}

/** Offer what the suite's tables have: machines, runs, providers and figures, and mark those that are shown. */
function offer() {
  const suite = sections.filter(inSuite);
  offerIn("machine", suite.map((section) => section.machine));
  offerIn("run", suite.flatMap((section) => section.cases.map((at) => field(at, "harness_commit")).filter(Boolean)));
  const providers = new Set(suite.flatMap((section) => section.columns.map(([provider]) => provider)));
  for (const box of all("input[name=provider]")) {
    box.parentElement.hidden = !providers.has(box.value);
    box.checked = !hiddenNow().has(box.value);
  }
  const offered = new Set(suite.flatMap((section) => Object.keys(section.kinds)));
  const shown = offered.has(state.kind) || !suite.length ? state.kind : kindOf(suite[0]);
  for (const radio of all("input[name=kind]")) {
    radio.parentElement.hidden = !offered.has(radio.value);
    radio.checked = radio.value === shown;
  }
  const box = one("#metric");
  if (box) box.hidden = all("label:not([hidden])", box).length < 2;
}

/** Show the sections of the suite and machine that hold every word; returns how many those are. */
function match() {
  const wanted = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of sections) {
    const here = !state.machine || section.machine === state.machine;
    const found = inSuite(section) && here && wanted.every((word) => section.element.dataset.words.includes(word));
    section.element.hidden = !found;
    count += found;
  }
  for (const suite of all("section.suite")) suite.hidden = all("section.table", suite).every((element) => element.hidden);
  return count;
}

/** Show what the state asks for, everywhere on the page. */
function apply() {
  offer();
  const count = match();
  for (const section of sections) {
    fill(section);
    hide(section);
    order(section);
    section.stale = true;
    redraw(section);
  }
  for (const tab of all("#suites [role=tab]")) {
    const chosen = tab.dataset.suite === state.suite;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  const hidden = hiddenNow().size;
  const less = hidden ? `, ${hidden} provider${hidden === 1 ? "" : "s"} hidden` : "";
  const ends = [state.least > 0 ? ` from ${state.least}` : "", state.most < Infinity ? ` to ${state.most}` : ""].join("");
  const text = `${count} of ${sections.filter(inSuite).length} tables shown${less}${ends ? `, n${ends}` : ""}.`;
  say(count ? text : `${text} No table here has all these words.`);
}

/** Take the state from the tools. */
function readTools() {
  const form = one("#tools");
  const text = (id) => one(id)?.value ?? "";
  state.hidden.set(state.suite, new Set(all("input[name=provider]:not(:checked)", form).map((box) => box.value)));
  keep({
    least: Number(text("#least")) || 0,
    most: Number(text("#most")) || Infinity,
    words: text("#words"),
    machine: text("#machine"),
    run: text("#run"),
    view: "",
  });
  apply();
}

/** Set the tools to the state, as it came from the address. */
function writeTools() {
  const set = (id, value) => one(id) && (one(id).value = value);
  set("#words", state.words);
  set("#least", state.least || "");
  set("#most", state.most < Infinity ? state.most : "");
  for (const section of sections) if (section.select) section.select.value = chosenPlot(section).id;
}

/** Show what the address asks for: tools, tables, the view it leads to and the case that is open. */
function followAddress() {
  readAddress();
  writeTools();
  apply();
  measureBar();
  const target = sectionNamed.get(state.view);
  if (target) target.element.scrollIntoView();
  showCell();
}

/** Tell the style how high the tools are, which stay at the top: no heading may come under them. */
function measureBar() {
  document.documentElement.style.setProperty("--bar", `${one("#tools").offsetHeight}px`);
}

function listenToTools() {
  const form = one("#tools");
  form.hidden = false;
  form.addEventListener("input", (event) => {
    if (event.target.name === "kind") state.kind = event.target.value;
    readTools();
  });
  form.addEventListener("change", (event) => event.target.localName === "select" && readTools());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    state.kind = DEFAULTS.kind;
    state.hidden.clear();
    setTimeout(readTools);
  });
  new ResizeObserver(measureBar).observe(form);
  addEventListener("hashchange", followAddress);
  addEventListener("popstate", followAddress);
}

/** Tabs: a press shows a suite; arrow keys go from one to the next, Home and End to the first and last. */
function listenToSuites() {
  const list = one("#suites");
  if (!list) return;
  list.hidden = false;
  const tabs = all("[role=tab]", list);
  const choose = (tab) => {
    keep({ suite: tab.dataset.suite, view: "" });
    apply();
    tab.focus();
  };
  list.addEventListener("click", (event) => event.target.closest("[role=tab]") && choose(event.target.closest("[role=tab]")));
  list.addEventListener("keydown", (event) => {
    const now = tabs.indexOf(document.activeElement);
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(tabs[(next + tabs.length) % tabs.length]);
  });
}

/** A permalink keeps the present figure, filters and plot beside its view. */
function listenToPermalinks() {
  for (const section of sections)
    one(".permalink", section.element).addEventListener("click", (event) => {
      event.preventDefault();
      state.hidden.set(section.suite, hiddenNow());
      keep({ view: section.name, suite: section.suite }, true);
      apply();
      section.element.scrollIntoView();
    });
}

const THEMES = { "": "as the system", light: "light", dark: "dark" };

/** A button that goes through the themes; the choice is kept where the browser lets a page keep something. */
function listenToTheme() {
  const button = one("#theme");
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${THEMES[theme]}`;
  };
  let kept = "";
  try {
    kept = localStorage.getItem("lbench-theme") ?? "";
  } catch {
    kept = ""; // a browser that keeps nothing for files
  }
  set(kept in THEMES ? kept : "");
  button.hidden = false;
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length];
    set(next);
    try {
      localStorage.setItem("lbench-theme", next);
    } catch {
      // it holds for this visit
    }
  });
}
