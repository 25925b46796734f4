// Comforts only: every page works without this file.
(function () {
  "use strict";

  // --- menus are <details>: close them by Escape, or by going elsewhere
  function closeMenus(except) {
    document.querySelectorAll("details.menu[open]").forEach(function (menu) {
      if (menu !== except) menu.removeAttribute("open");
    });
  }
  document.addEventListener("click", function (event) {
    closeMenus(event.target.closest("details.menu"));
  });
  document.addEventListener("focusin", function (event) {
    closeMenus(event.target.closest("details.menu"));
  });
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") {
      var open = document.querySelector("details.menu[open]");
      closeMenus(null);
      if (open) open.querySelector("summary").focus();
    }
    // "/" goes to the search box, as on many consoles
    if (event.key === "/" && !/^(input|textarea|select)$/i.test(event.target.tagName)) {
      var box = document.querySelector(".console-search input");
      if (box) {
        event.preventDefault();
        box.focus();
        box.select();
      }
    }
  });

  // --- theme: at once, the form is for browsers without script
  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (form.matches("[data-theme-form]") && event.submitter) {
      event.preventDefault();
      var theme = event.submitter.value;
      var age = theme === "auto" ? 0 : 31536000;
      var secure = location.protocol === "https:" ? "; Secure" : "";
      document.cookie =
        "theme=" + theme + "; Path=/; Max-Age=" + age + "; SameSite=Lax" + secure;
      window.applyTheme();
      form.querySelectorAll("button").forEach(function (button) {
        button.toggleAttribute("aria-current", button === event.submitter);
      });
      closeMenus(null);
      return;
    }
    // --- a form is sent once: the second click of a double click does nothing
    if (form.method === "post" && !form.hasAttribute("hx-post")) {
      if (form.dataset.sent) {
        event.preventDefault();
        return;
      }
      form.dataset.sent = "1";
    }
  });
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form[data-sent]").forEach(function (form) {
      delete form.dataset.sent;
    });
  });

  // --- copy buttons
  function showCopyButtons(scope) {
    if (!navigator.clipboard) return;
    scope.querySelectorAll("button.copy[hidden]").forEach(function (button) {
      button.hidden = false;
    });
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("button.copy");
    if (!button) return;
    navigator.clipboard.writeText(button.dataset.copy).then(function () {
      button.classList.add("copied");
      say("Copied");
      setTimeout(function () {
        button.classList.remove("copied");
      }, 1500);
    });
  });

  // --- "select all" of a table's checkboxes, which only a script can do
  function showSelectAll(scope) {
    scope.querySelectorAll("[data-select-all][hidden]").forEach(function (box) {
      box.hidden = false;
      tellSelectAll(box);
    });
  }
  function boxesBelow(all) {
    return Array.from(all.closest("table").querySelectorAll('td > input[type="checkbox"]:not(:disabled)'));
  }
  function tellSelectAll(all) {
    var boxes = boxesBelow(all);
    var chosen = boxes.filter(function (box) {
      return box.checked;
    }).length;
    all.checked = chosen > 0 && chosen === boxes.length;
    all.indeterminate = chosen > 0 && chosen < boxes.length;
  }
  document.addEventListener("change", function (event) {
    var table = event.target.closest("table");
    var all = table && table.querySelector("[data-select-all]");
    if (!all) return;
    if (event.target === all) {
      boxesBelow(all).forEach(function (box) {
        box.checked = all.checked;
      });
    } else {
      tellSelectAll(all);
    }
  });

  // --- filters of a list apply as soon as they are changed
  document.addEventListener("change", function (event) {
    var form = event.target.closest("form[data-auto-submit]");
    if (form && event.target.matches("select, input[type=checkbox]")) form.requestSubmit();
  });

  function say(words) {
    var live = document.getElementById("live");
    if (live) live.textContent = words;
  }

  // progress is told every ten percent and when the state changes, not every two seconds
  var lastSaid = "";
  function sayProgress(words) {
    var step = words.replace(/(\d+) percent/, function (all, number) {
      return Math.floor(number / 10) * 10 + " percent";
    });
    if (step !== lastSaid) {
      lastSaid = step;
      say(words);
    }
  }

  // --- htmx: what polls rests while nobody looks, and trouble is told
  var body = document.body;
  body.addEventListener("htmx:beforeRequest", function (event) {
    if (document.hidden && event.detail.elt.hasAttribute("data-poll")) event.preventDefault();
  });
  function showTrouble(kind) {
    var box = document.getElementById("trouble");
    box.querySelectorAll("[data-trouble]").forEach(function (words) {
      words.hidden = words.dataset.trouble !== kind;
    });
    box.hidden = false;
  }
  body.addEventListener("htmx:sendError", function () {
    showTrouble("silent");
  });
  body.addEventListener("htmx:responseError", function (event) {
    if (event.detail.xhr.status >= 500) showTrouble("silent");
    if (event.detail.xhr.status === 429) showTrouble("busy");
  });
  body.addEventListener("htmx:afterRequest", function (event) {
    if (event.detail.successful) document.getElementById("trouble").hidden = true;
  });
  body.addEventListener("htmx:afterSwap", function () {
    showCopyButtons(document);
    showSelectAll(document);
    var said = document.querySelector("[data-say]");
    if (said) sayProgress(said.dataset.say);
  });
  showCopyButtons(document);
  showSelectAll(document);
})();
