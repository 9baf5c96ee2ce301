"use strict";
(() => {
  const SPRITE = document.querySelector("link[rel=icon]")?.href.replace(/favicon[^/]*\.svg.*$/, "icons.svg");
  const ICONS = { ok: "check-circle", warn: "triangle", bad: "x-circle", info: "info", idle: "info", hold: "hand" };

  // ---- Toasts and announcements ----

  function svgIcon(name) {
    const known = document.querySelector(`use[href$="#${name}"]`)?.getAttribute("href");
    const any = document.querySelector("use[href*='#']")?.getAttribute("href");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", known || `${any ? any.split("#")[0] : SPRITE}#${name}`);
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    svg.append(use);
    return svg;
  }

  function toast(tone, text) {
    const box = document.getElementById("toasts");
    if (!box || !text) return;
    for (const old of box.children) if (old.dataset.text === text) old.remove();
    while (box.children.length > 3) box.firstChild.remove();
    const item = document.createElement("div");
    item.className = `callout callout-${ICONS[tone] ? tone : "info"}`;
    item.dataset.text = text;
    const words = document.createElement("div");
    words.textContent = text;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "toast-close";
    close.setAttribute("aria-label", "Close this message");
    close.append(svgIcon("x"));
    close.addEventListener("click", () => item.remove());
    item.append(svgIcon(ICONS[tone] || "info"), words, close);
    box.append(item);
    if (tone === "ok" || tone === "info") setTimeout(() => item.matches(":hover, :focus-within") || item.remove(), 8000);
  }

  function announce(text) {
    const box = document.getElementById("announcer");
    if (box) box.textContent = text;
  }

  // The server may send HX-Trigger: {"toast": {"tone": "ok", "text": "…"}} or {"announce": {"text": "…"}}.
  document.addEventListener("toast", (event) => toast(event.detail.tone, event.detail.text));
  document.addEventListener("announce", (event) => announce(event.detail.text || event.detail.value));
  window.deploypipe = { toast, announce };

  // ---- Verbs: the form inside <details> moves into a <dialog>, and back when that closes ----

  // On the body, not in the panel: a panel that refreshes must not take the half-written reason with it.
  function openDialog(details) {
    const form = details.querySelector(".verb-form");
    if (!form) return;
    const heading = form.querySelector("h2");
    heading.id = heading.id || `dialog-${Math.random().toString(36).slice(2)}`;
    const dialog = document.createElement("dialog");
    dialog.className = "dialog";
    dialog.setAttribute("aria-labelledby", heading.id);
    dialog.append(form);
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (!dialog.opener.isConnected) return;
      dialog.opener.append(form);
      dialog.opener.querySelector("summary").focus();
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.opener = details;
    dialog.showModal();
    (form.querySelector("textarea, select, input:not([type=hidden])") || form.querySelector("[type=submit]")).focus();
  }

  // The panel behind the dialog was replaced. Same verb, same consequence: nothing new; otherwise the reader is told.
  const wording = (form) => [form.getAttribute("action"), ...[...form.querySelectorAll("h2, p, input[type=hidden]:not([name=csrfmiddlewaretoken])")].map((part) => part.value || part.textContent)].join("\n");
  function markOutdated() {
    for (const dialog of document.querySelectorAll("dialog.dialog")) {
      if (!dialog.opener || dialog.opener.isConnected) continue;
      const mine = wording(dialog.querySelector(".verb-form"));
      const same = [...document.querySelectorAll("details[data-dialog]")].find((details) => {
        const form = details.querySelector(".verb-form");
        return form && wording(form) === mine;
      });
      if (same) {
        same.querySelector(".verb-form").remove();
        dialog.opener = same;
      }
      dialog.classList.toggle("is-outdated", !same);
    }
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("summary, [data-close], [data-copy], [data-fill-username]");
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
    if (!target) return;
    if (target.matches("details[data-dialog] > summary")) {
      event.preventDefault();
      openDialog(target.parentElement);
    } else if (target.matches("[data-close]")) {
      target.closest("dialog")?.close();
    } else if (target.matches("[data-copy]")) {
      navigator.clipboard?.writeText(target.dataset.copy).then(() => toast("ok", "Copied."), () => {});
    } else if (target.matches("[data-fill-username]")) {
      document.getElementById("id_username").value = target.dataset.fillUsername;
      document.getElementById("id_password").value = target.dataset.fillPassword;
      document.getElementById("id_username").form.requestSubmit();
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === " " && event.target.matches?.("details[data-dialog] > summary")) {
      event.preventDefault();
      openDialog(event.target.parentElement);
    }
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // ---- Submitting twice ----

  const busy = new Set();
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented || event.target.method !== "post") return;
    const form = event.target;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "1";
    busy.add(form);
    // After this turn, so that the button's own name and value are still sent.
    setTimeout(() => {
      const button = event.submitter || form.querySelector("[type=submit]");
      button?.setAttribute("aria-busy", "true");
      if (button) button.disabled = true;
    });
  });
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    for (const form of busy) {
      delete form.dataset.sent;
      for (const button of form.querySelectorAll("[aria-busy]")) {
        button.removeAttribute("aria-busy");
        button.disabled = false;
      }
    }
    busy.clear();
  });

  // ---- htmx: refused verbs, panels that cannot refresh, what a swap must keep ----

  const isVerb = (detail) => (detail.requestConfig?.verb || "get") !== "get";
  const isHtml = (xhr) => (xhr.getResponseHeader("Content-Type") || "").startsWith("text/html");

  // A refused verb may answer with the fresh panel instead of JSON; then that panel is shown.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if ([409, 422].includes(xhr.status) && isHtml(xhr)) {
      event.detail.shouldSwap = true;
      event.detail.isError = false;
    }
  });

  function sentence(xhr) {
    try {
      const answer = JSON.parse(xhr.responseText);
      const fields = Object.values(answer.fields || {}).flat();
      return [answer.message || answer.detail, ...fields].filter(Boolean).join(" ");
    } catch {
      return "";
    }
  }

  let lastComplaint = 0;
  function complain(event, text) {
    if (isVerb(event.detail)) {
      toast("bad", text);
      return;
    }
    event.detail.elt?.classList.add("is-stale");
    if (Date.now() - lastComplaint < 60_000) return;
    lastComplaint = Date.now();
    toast("warn", "Part of this page could not be refreshed. It shows what was known before.");
  }

  document.addEventListener("htmx:responseError", (event) => {
    const { xhr } = event.detail;
    const plain = {
      403: "Your account may not do this, or you were signed out.",
      404: "This no longer exists.",
      409: "Somebody else was first; the page shows the new state.",
      429: "Too many requests; wait a moment.",
    };
    complain(event, sentence(xhr) || plain[xhr.status] || `The server answered with error ${xhr.status}. Look at the page again before you repeat it.`);
  });
  document.addEventListener("htmx:sendError", (event) => complain(event, "The server cannot be reached. Look at the page again before you repeat it."));
  document.addEventListener("htmx:timeout", (event) => complain(event, "The server did not answer in time. Look at the page again before you repeat it."));

  document.addEventListener("htmx:afterRequest", (event) => {
    const { elt, successful } = event.detail;
    const dialog = elt?.closest?.("dialog");
    if (dialog && (successful || [409, 422].includes(event.detail.xhr?.status))) dialog.close();
  });

  // What the reader had unfolded stays unfolded: <details data-keep="name"> or with an id.
  let unfolded = [];
  const keepName = (details) => details.dataset.keep || details.id;
  document.addEventListener("htmx:beforeSwap", (event) => {
    unfolded = [...(event.detail.target?.querySelectorAll("details") || [])]
      .filter((details) => keepName(details))
      .map((details) => [keepName(details), details.open]);
  });
  document.addEventListener("htmx:afterSettle", (event) => {
    const scope = event.detail.elt?.isConnected ? event.detail.elt : document;
    for (const [name, open] of unfolded) {
      for (const details of scope.querySelectorAll("details")) if (keepName(details) === name) details.open = open;
    }
    refreshTimes();
    markOutdated();
  });

  // A background tab costs nothing: polls and doorbells wait until it is looked at.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && !isVerb(event.detail)) event.preventDefault();
  });

  // ---- Relative times ----

  const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  function relative(at, now) {
    const seconds = Math.round((now - at) / 1000);
    const away = Math.abs(seconds);
    let words;
    if (away < 5) return "just now";
    if (away < 60) words = `${away}\u00a0s`;
    else if (away < 3600) words = `${Math.floor(away / 60)}\u00a0min`;
    else if (away < 48 * 3600) words = `${Math.floor(away / 3600)}\u00a0h`;
    else if (away < 60 * 86400) words = `${Math.floor(away / 86400)} days`;
    else return date.format(at);
    return seconds > 0 ? `${words} ago` : `in ${words}`;
  }
  function refreshTimes() {
    const now = Date.now();
    for (const element of document.querySelectorAll("time.when")) {
      const words = relative(Date.parse(element.dateTime), now);
      if (element.textContent !== words) element.textContent = words;
    }
  }
  setInterval(() => document.hidden || refreshTimes(), 5000);
  document.addEventListener("visibilitychange", () => document.hidden || refreshTimes());

  document.addEventListener("DOMContentLoaded", () => {
    refreshTimes();
    document.querySelector("[data-autofocus]")?.focus();
  });
})();
