"use strict";
// One WebSocket per page. The server rings {"topic", "seq", "kind": "changed"}; we raise a DOM event of the topic's name
// on <body>, and panels with hx-trigger="<topic> from:body" fetch themselves again. Chart points come along directly.
(() => {
  const DEBOUNCE = 250;
  const FIRST_DELAY = 500;
  const LONGEST_DELAY = 15_000;
  const HIDDEN_GRACE = 10_000;
  const OFFLINE_AFTER = 4;
  const WORDS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", offline: "Offline, still trying" };

  let socket = null;
  let attempts = 0;
  let retryTimer = 0;
  let hideTimer = 0;
  let wasLive = false;
  const subscribed = new Set();
  const bells = new Map();
  const lastSeq = new Map();

  const topics = () => {
    const found = new Set();
    for (const element of document.querySelectorAll("[data-live-topic]")) {
      for (const topic of element.dataset.liveTopic.split(/[\s,]+/)) if (topic) found.add(topic);
    }
    return found;
  };

  function show(state) {
    const dot = document.getElementById("live-state");
    if (!dot) return;
    dot.hidden = topics().size === 0;
    if (dot.dataset.state === state && dot.textContent === WORDS[state]) return;
    dot.dataset.state = state;
    dot.textContent = WORDS[state];
  }

  function ring(topic) {
    if (bells.has(topic)) return;
    bells.set(
      topic,
      setTimeout(() => {
        bells.delete(topic);
        document.body.dispatchEvent(new CustomEvent(topic, { detail: { topic } }));
      }, DEBOUNCE),
    );
  }

  // Whatever was missed while away is in what the panels and charts fetch now.
  function heal() {
    for (const topic of topics()) {
      ring(topic);
      document.dispatchEvent(new CustomEvent("live:heal", { detail: { topic } }));
    }
  }

  function subscribe() {
    if (socket?.readyState !== WebSocket.OPEN) return;
    const fresh = [...topics()].filter((topic) => !subscribed.has(topic));
    if (!fresh.length) return;
    for (const topic of fresh) subscribed.add(topic);
    socket.send(JSON.stringify({ subscribe: fresh }));
  }

  function receive(event) {
    let message;
    try {
      message = JSON.parse(event.data);
    } catch {
      return;
    }
    const { topic, seq, kind } = message;
    if (kind === "subscribed") {
      // From here on nothing is missed; what happened since the page was rendered is fetched once.
      attempts = 0;
      show("live");
      if (wasLive) heal();
      else for (const one of topics()) document.dispatchEvent(new CustomEvent("live:heal", { detail: { topic: one } }));
      wasLive = true;
      return;
    }
    if (!topic || lastSeq.get(topic) === seq) return;
    lastSeq.set(topic, seq);
    if (kind === "changed") ring(topic);
    else if (kind === "points") {
      document.dispatchEvent(new CustomEvent("live:points", { detail: { topic, points: message.points } }));
    }
  }

  function connect() {
    clearTimeout(retryTimer);
    if (socket || document.hidden || !topics().size) return;
    subscribed.clear();
    const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/live/`);
    socket = mine;
    mine.addEventListener("open", subscribe);
    mine.addEventListener("message", receive);
    mine.addEventListener("close", () => {
      if (socket !== mine) return;
      socket = null;
      if (!document.hidden) retry();
    });
  }

  // Full jitter: after a restart of the server a hundred browsers do not return at once.
  function retry() {
    attempts += 1;
    show(attempts > OFFLINE_AFTER || navigator.onLine === false ? "offline" : "reconnecting");
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempts);
    retryTimer = setTimeout(connect, Math.random() * longest);
  }

  function disconnect() {
    clearTimeout(retryTimer);
    const old = socket;
    socket = null;
    old?.close();
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(hideTimer);
    if (document.hidden) {
      hideTimer = setTimeout(disconnect, HIDDEN_GRACE);
    } else if (socket) {
      heal(); // polls and doorbells were swallowed while nobody looked
    } else {
      attempts = 0;
      show("connecting");
      connect();
    }
  });
  window.addEventListener("online", () => {
    attempts = 0;
    disconnect();
    connect();
  });
  window.addEventListener("offline", () => {
    disconnect();
    retry();
  });
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => event.persisted && connect());

  const start = () => {
    show(socket?.readyState === WebSocket.OPEN ? "live" : document.getElementById("live-state")?.dataset.state || "connecting");
    connect();
    subscribe();
  };
  document.addEventListener("DOMContentLoaded", start);
  document.addEventListener("htmx:afterSettle", start);
})();
