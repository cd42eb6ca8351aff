// The tools above the tables: which figure, which tables, which lengths, which providers; and the theme.

/** Tell a screen reader, and whoever looks, what a tool did. */
function say(text) {
  one("#said").textContent = text;
}

/** Show the sections that hold every word; returns how many those are. */
function match(words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const section of sections) {
    const found = wanted.every((word) => section.element.dataset.words.includes(word));
    section.element.hidden = !found;
    count += found;
  }
  return count;
}

function apply() {
  const form = one("#tools");
  const chosen = one("input[name=kind]:checked", form);
  state.kind = chosen ? chosen.value : null;
  state.hidden = new Set(all("input[name=provider]:not(:checked)", form).map((box) => box.value));
  state.least = one("#least").value === "" ? 0 : Number(one("#least").value);
  state.most = one("#most").value === "" ? Infinity : Number(one("#most").value);
  const count = match(one("#words").value);
  for (const section of sections) {
    fill(section);
    hide(section);
    order(section);
    section.stale = true;
    redraw(section);
  }
  const less = state.hidden.size ? `, ${state.hidden.size} providers hidden` : "";
  const text = `${count} of ${sections.length} tables shown${less}.`;
  say(count ? text : `${text} No table holds all these words.`);
}

function listenToTools() {
  const form = one("#tools");
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
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
