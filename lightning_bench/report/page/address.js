// The address: what is chosen is in its fragment, so that a link shows what its sender saw.

const DEFAULTS = { suite: null, kind: null };

/** The fragment for the present state; what is as it was at the start is left out. */
function fragment(changes = {}) {
  const now = { ...state, ...changes };
  const found = new URLSearchParams();
  for (const name of ["suite", "kind"]) if (now[name] && now[name] !== DEFAULTS[name]) found.set(name, now[name]);
  for (const name of ["machine", "run", "words"]) if (now[name]) found.set(name, now[name]);
  if (now.least > 0 || now.most < Infinity) found.set("n", `${now.least || ""}..${now.most < Infinity ? now.most : ""}`);
  if (now.hidden.size) found.set("hide", [...now.hidden].join(","));
  for (const [view, choice] of Object.entries(now.choice)) found.append("plot", `${view}/${choice}`);
  if (now.view) found.set("view", now.view);
  if (now.cell) found.set("cell", now.cell);
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
  state.suite = found.get("suite") ?? (target ? target.suite : DEFAULTS.suite);
  state.kind = found.get("kind") ?? DEFAULTS.kind;
  state.machine = found.get("machine") ?? "";
  state.run = found.get("run") ?? "";
  state.words = found.get("words") ?? "";
  state.least = Number(least) || 0;
  state.most = Number(most) || Infinity;
  state.hidden = new Set((found.get("hide") ?? "").split(",").filter(Boolean));
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
