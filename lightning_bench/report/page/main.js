// What starts the page.

listenToTheme();
listenToTools();
sections.forEach((section) => {
  section.shown = Object.keys(section.kinds)[0];
  listenToHeads(section);
});
const chosenKind = one("input[name=kind]:checked");
state.kind = chosenKind ? chosenKind.value : null;
// A browser that goes back to the page keeps what was typed and ticked.
if (one("#words").value || all("input[name=provider]:not(:checked)").length || one("#least").value || one("#most").value || (chosenKind && !chosenKind.defaultChecked)) apply();
watchPlots();
listenToCases();
followHash();
document.documentElement.dataset.ready = "yes";
