// What starts the page.

DEFAULTS.suite = one("#suites [aria-selected=true]")?.dataset.suite ?? null;
DEFAULTS.kind = one("input[name=kind]:checked")?.defaultValue ?? null;
listenToTheme();
listenToTools();
listenToSuites();
listenToPermalinks();
sections.forEach((section) => {
  listenToTable(section);
  furnish(section);
});
drawHero();
listenToCases();
followAddress();
watchPlots();
document.documentElement.dataset.ready = "yes";
