// Dark or light, before the first paint. A choice lies in the cookie "theme" and the server
// has put it on <html> already; without one the system decides, also while the page is open.
(function () {
  "use strict";
  var html = document.documentElement;
  html.classList.add("scripted"); // what helps without script is not shown
  var system = window.matchMedia("(prefers-color-scheme: dark)");
  function chosen() {
    var found = /(?:^|; )theme=(light|dark)/.exec(document.cookie);
    return found ? found[1] : null;
  }
  function apply() {
    html.setAttribute("data-bs-theme", chosen() || (system.matches ? "dark" : "light"));
  }
  apply();
  system.addEventListener("change", apply);
  window.applyTheme = apply;
})();
