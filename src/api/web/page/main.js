// The shell of the page, which handles login, navigation, and the choice of the language.

import { api } from "./api.js";
import { fill, h, toast } from "./dom.js";
import "./live.js";
import "./label.js";
import "./library.js";
import "./learning.js";
import "./events.js";
import "./counts.js";
import "./device.js";
import "./settings.js";
import { LANGUAGES, choose, language, rich, t } from "./texts.js";
import { watchWaiting } from "./waiting.js";

const VIEWS = {
  live: "live-view",
  label: "label-queue",
  library: "library-view",
  learning: "learning-view",
  events: "events-view",
  counts: "counts-view",
  device: "device-view",
  settings: "settings-form",
};

const main = document.getElementById("main");
const nav = document.querySelector("nav");
const logOut = document.getElementById("log-out");
const languages = document.getElementById("language");

/** Ends the updates of the number of waiting face pictures. */
let endWaiting = () => {};

function show() {
  // What follows a question mark is for the view.
  const wanted = location.hash.slice(1).split("?")[0];
  const name = VIEWS[wanted] ? wanted : "live";
  document.title = t("page.title", { view: t(`nav.${name}`) });
  for (const link of nav.children) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(h(VIEWS[name]));
}

function askForPassword(session) {
  endWaiting();
  nav.hidden = true;
  logOut.hidden = true;
  document.title = t("page.title", { view: t("login.title") });
  if (!session.password) {
    main.replaceChildren(h("p", {}, rich("login.none", { command: h("code", {}, "maskd passwd") })));
    return;
  }
  const error = h("p", { class: "error", role: "alert" });
  const password = h("input", { type: "password", id: "password", name: "password", autocomplete: "current-password", required: true });
  const form = h(
    "form",
    {
      class: "card log-in",
      onsubmit: async (event) => {
        event.preventDefault();
        error.replaceChildren();
        try {
          begin(await api.logIn(password.value));
        } catch (problem) {
          error.replaceChildren(problem.status === 401 ? t("login.wrong") : problem.shown);
          password.select();
        }
      },
    },
    h("h2", {}, t("login.title")),
    // Password managers expect a user name.
    h("input", { type: "text", autocomplete: "username", value: "maskd", hidden: true }),
    h("label", { for: "password" }, t("login.password")),
    password,
    error,
    h("button", {}, t("login.button")),
  );
  main.replaceChildren(form);
  password.focus();
}

function begin(session) {
  if (!session.allowed) return askForPassword(session);
  nav.hidden = false;
  logOut.hidden = !session.session;
  endWaiting();
  endWaiting = watchWaiting();
  show();
}

async function start() {
  try {
    begin(await api.session());
  } catch (problem) {
    main.replaceChildren(h("p", { class: "error", role: "alert" }, problem.shown), h("button", { type: "button", onclick: start }, t("common.tryAgain")));
  }
}

for (const element of document.querySelectorAll("[data-text]")) element.prepend(t(element.dataset.text));
nav.setAttribute("aria-label", t("page.pages"));
languages.setAttribute("aria-label", t("page.language"));
fill(languages, Object.entries(LANGUAGES).map(([value, name]) => h("option", { value, lang: value, selected: value === language }, name)));
languages.addEventListener("change", () => choose(languages.value));
logOut.addEventListener("click", async () => {
  try {
    askForPassword(await api.logOut());
  } catch (problem) {
    toast(problem.shown);
  }
});
window.addEventListener("logged-out", start);
window.addEventListener("hashchange", () => {
  if (nav.hidden || location.hash === "#main") return;
  show();
  main.focus();
});
start();
