"use strict";
// Loaded in the head without defer: the theme is on <html> before anything is painted.
(() => {
  const root = document.documentElement;
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const choice = () => (["light", "dark"].includes(stored()) ? stored() : "system");

  const apply = () => {
    if (choice() === "system") root.removeAttribute("data-bs-theme");
    else root.setAttribute("data-bs-theme", choice());
    for (const button of document.querySelectorAll("[data-theme-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.themeChoice === choice()));
    }
    document.dispatchEvent(new CustomEvent("themechange"));
  };

  root.classList.add("js");
  apply();
  document.addEventListener("DOMContentLoaded", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  window.addEventListener("storage", (event) => event.key === "theme" && apply());
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-theme-choice]");
    if (!button) return;
    try {
      localStorage.setItem("theme", button.dataset.themeChoice);
    } catch {
      root.setAttribute("data-bs-theme", button.dataset.themeChoice);
    }
    apply();
  });
})();
