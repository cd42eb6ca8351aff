// The address: what is chosen is in its fragment, so that a link shows what its sender saw.

const DEFAULTS = { suite: null, kind: null };

/** The fragment for the present state; what is as it was at the start is left out, and what another suite hides. */
function fragment() {
  const found = new URLSearchParams();
  for (const name of ["suite", "kind"]) if (state[name] && state[name] !== DEFAULTS[name]) found.set(name, state[name]);
  for (const name of ["machine", "run", "words"]) if (state[name]) found.set(name, state[name]);
  if (state.least > 0 || state.most < Infinity) found.set("n", `${state.least || ""}..${state.most < Infinity ? state.most : ""}`);
  if (hiddenNow().size) found.set("hide", [...hiddenNow()].join(","));
  for (const [view, choice] of Object.entries(state.choice)) found.append("plot", `${view}/${choice}`);
  if (state.view) found.set("view", state.view);
  if (state.cell) found.set("cell", state.cell);
  return found.toString();
}

/** Keep the state in the address; `push` makes a step that the browser can go back from. */
function keep(changes = {}, push = false) {
  Object.assign(state, changes);
  const text = fragment();
  const url = location.pathname + location.search + (text ? `#${text}` : "");
  if (push) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
}

/** Take the state from the address; what it does not name is as at the start. */
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const [least, most] = (found.get("n") ?? "..").split("..");
  state.cell = found.get("cell") ?? "";
  state.view = found.get("view") ?? "";
  const target = sectionNamed.get(state.view || state.cell.split("/")[0]);
  const asked = found.get("suite") ?? target?.suite;
  state.suite = asked === "*" || sections.some((section) => section.suite === asked) ? asked : DEFAULTS.suite;
  state.kind = found.get("kind") ?? DEFAULTS.kind;
  state.machine = found.get("machine") ?? "";
  state.run = found.get("run") ?? "";
  state.words = found.get("words") ?? "";
  state.least = Number(least) || 0;
  state.most = Number(most) || Infinity;
  state.hidden.set(state.suite, new Set((found.get("hide") ?? "").split(",").filter(Boolean)));
  state.choice = {};
  for (const text of found.getAll("plot")) {
    const at = text.indexOf("/");
    if (sectionNamed.has(text.slice(0, at))) state.choice[text.slice(0, at)] = text.slice(at + 1);
  }
}

/** The case that `view/line/column` names, -1 for none. */
function caseNamed(text) {
  const [view, key, ...rest] = text.split("/");
  const section = sectionNamed.get(view);
  if (!section) return -1;
  const line = section.lines.findIndex((each) => each.key === key);
  const column = section.keys.indexOf(rest.join("/"));
  return line < 0 || column < 0 ? -1 : section.cases[indexOf(section, line, column)];
}

function cellName(section, line, column) {
  return `${section.name}/${section.lines[line].key}/${section.keys[column]}`;
}
