"use strict";
// Renders <figure data-chart="id of the json payload">. The server says what is shown (data, layout, meta.role, meta.key);
// colours, fonts and behaviour are here, once, and follow the theme.
(() => {
  const CAP = 600;
  const TABLE_ROWS = 20;
  const REPLACE_WITHIN = 20;
  const charts = new Map();
  const probe = document.createElement("span");

  // A custom property keeps its light-dark() text; only a real colour is resolved by the browser.
  function token(name) {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  }

  function theme() {
    if (!probe.isConnected) {
      probe.hidden = true;
      document.body.append(probe);
    }
    return {
      text: token("text"), soft: token("text-2"), grid: token("chart-grid"), line: token("line"), surface: token("surface"),
      baseline: token("chart-baseline"), candidate: token("chart-candidate"), third: token("chart-third"),
      fourth: token("chart-fourth"), fifth: token("chart-fifth"), sixth: token("chart-sixth"), limit: token("chart-limit"), shade: token("chart-shade"),
      ok: token("tone-ok"), warn: token("tone-warn"), bad: token("tone-bad"), info: token("tone-info"),
      idle: token("tone-idle"), hold: token("tone-hold"),
      font: getComputedStyle(document.body).fontFamily,
    };
  }

  const LINES = {
    baseline: (colours) => ({ color: colours.baseline, dash: "dash", width: 2 }),
    candidate: (colours) => ({ color: colours.candidate, dash: "solid", width: 2.25 }),
    third: (colours) => ({ color: colours.third, dash: "dashdot", width: 2 }),
    fourth: (colours) => ({ color: colours.fourth, dash: "longdash", width: 2 }),
    fifth: (colours) => ({ color: colours.fifth, dash: "5px 2px", width: 2 }),
    sixth: (colours) => ({ color: colours.sixth, dash: "8px 3px 2px 3px", width: 2 }),
    set: (colours) => ({ color: colours.text, dash: "dot", width: 1.5 }),
    limit: (colours) => ({ color: colours.limit, dash: "dash", width: 1.25 }),
  };

  function styledTrace(trace, index, colours) {
    const role = trace.meta?.role || ["candidate", "baseline", "third", "fourth"][index] || "third";
    const line = (LINES[role] || LINES.third)(colours);
    const styled = { ...trace };
    const scatter = !trace.type || trace.type === "scatter" || trace.type === "scattergl";
    if (scatter) {
      styled.type = "scatter";
      styled.mode = trace.mode || "lines";
      styled.line = { ...line, ...trace.line };
      styled.connectgaps = trace.connectgaps ?? false;
      if (styled.mode.includes("markers")) styled.marker = { color: line.color, size: 7, symbol: role === "baseline" ? "diamond" : "circle", ...trace.marker };
      if (trace.fill) styled.fillcolor = trace.fillcolor || line.color.replace("rgb(", "rgba(").replace(")", ", 0.14)");
      if (trace.error_x) styled.error_x = { color: line.color, thickness: 2, ...trace.error_x };
    } else {
      styled.marker = { color: line.color, ...trace.marker };
    }
    const tones = trace.meta?.tones;
    if (tones) styled.marker = { ...styled.marker, color: tones.map((tone) => colours[tone] || line.color) };
    if (trace.hovertemplate === undefined && scatter) {
      styled.hovertemplate = `%{y:.4~g}${trace.meta?.unit ? ` ${trace.meta.unit}` : ""}<extra>%{fullData.name}</extra>`;
    }
    return styled;
  }

  const axisTitle = (axis) => (typeof axis?.title === "string" ? axis.title : axis?.title?.text || "");

  function styledLayout(layout, colours, count, small, width) {
    const axis = (given) => ({
      gridcolor: colours.grid, linecolor: colours.line, zerolinecolor: colours.line, tickcolor: colours.line,
      automargin: true, ...given,
      tickfont: { color: colours.soft, size: 11, ...given?.tickfont },
      title: { standoff: 6, text: small ? "" : axisTitle(given), font: { color: colours.soft, size: 11 } },
    });
    const axes = {};
    // The label of a limit sits above its line: leave it room when the line is the highest thing in the chart.
    const labelled = (layout.shapes || []).filter((shape) => shape.label?.text && shape.yref !== "paper" && typeof shape.y1 === "number").map((shape) => shape.y1 * (small ? 1.45 : 1.18));
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))])) {
      axes[name] = axis(name.startsWith("y") ? { rangemode: "tozero", nticks: small ? 4 : 6, ...(name === "yaxis" && labelled.length && { autorangeoptions: { include: labelled } }), ...layout[name] } : { showgrid: false, nticks: Math.max(3, Math.min(8, Math.floor(width / 95))), tickangle: 0, ...layout[name] });
    }
    const shapes = (layout.shapes || []).map((shape) =>
      shape.type === "rect"
        ? { line: { width: 0 }, layer: "below", fillcolor: colours.shade, ...shape }
        : { ...shape, line: { color: colours.limit, dash: "dash", width: 1.25, ...shape.line }, label: shape.label && { font: { color: colours.limit, size: 11 }, textposition: "end", yanchor: "bottom", ...shape.label } },
    );
    return {
      margin: { l: 8, r: 12, t: 6, b: 8, pad: 2 }, autosize: true,
      showlegend: count > 1, hovermode: "x unified", dragmode: "zoom", uirevision: "kept",
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 11.5, color: colours.text }, bgcolor: "rgba(0,0,0,0)", itemwidth: 30 },
      ...layout,
      ...axes,
      title: undefined,
      height: undefined,
      width: undefined,
      shapes,
      annotations: (layout.annotations || []).map((note) => ({ ...note, font: { color: colours.soft, size: 11, ...note.font } })),
      font: { family: colours.font, color: colours.text, size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: colours.surface, bordercolor: colours.line, font: { color: colours.text, family: colours.font, size: 12 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.candidate },
      transition: undefined,
    };
  }

  const CONFIG = {
    displaylogo: false, responsive: true, displayModeBar: "hover", scrollZoom: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  // ---- Drawing ----

  function draw(chart) {
    const colours = theme();
    chart.drawn = window.Plotly.react(
      chart.plot,
      chart.data.map((trace, index) => styledTrace(trace, index, colours)),
      styledLayout(chart.layout, colours, chart.data.length, chart.figure.classList.contains("chart-s"), chart.plot.clientWidth),
      CONFIG,
    );
    fillTable(chart);
  }

  function adopt(chart, figure) {
    chart.data = (figure.data || []).map((trace) => ({ ...trace, x: [...(trace.x || [])], y: [...(trace.y || [])] }));
    chart.layout = figure.layout || {};
  }

  // ---- The table twin ----

  const NUMBER = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });
  const WHOLE = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
  function cell(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value === "number") return Math.abs(value) >= 100 ? WHOLE.format(value) : NUMBER.format(value);
    const text = String(value);
    return /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text) ? text.slice(11, 19) : text;
  }

  function fillTable(chart) {
    if (!chart.table?.closest("details")?.open) return;
    const columns = chart.data.map((trace) => {
      const column = new Map();
      trace.x.forEach((x, index) => column.set(x, trace.y[index]));
      return column;
    });
    let moments = [...new Set(columns.flatMap((column) => [...column.keys()]))];
    if (chart.layout.xaxis?.type === "date" || moments.every((x) => typeof x === "number")) {
      moments.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    }
    const body = document.createElement("tbody");
    for (const x of moments.slice(-TABLE_ROWS).reverse()) {
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = cell(x);
      row.append(head);
      for (const column of columns) {
        const data = row.insertCell();
        data.className = "num";
        data.textContent = cell(column.get(x));
      }
    }
    chart.table.querySelector("tbody").replaceWith(body);
  }

  // ---- Points that arrive ----

  const order = (x) => (typeof x === "number" ? x : Date.parse(x));

  // Newer points are appended; a point of an x that is already there replaces it (the current second, counted again).
  function takePoints(chart, points) {
    const indices = [];
    const xs = [];
    const ys = [];
    let replaced = false;
    chart.data.forEach((trace, index) => {
      const given = trace.meta?.key && points[trace.meta.key];
      if (!given) return;
      const newX = [];
      const newY = [];
      given.x.forEach((x, n) => {
        const last = trace.x.length ? order(trace.x[trace.x.length - 1]) : -Infinity;
        if (!(order(x) <= last)) {
          trace.x.push(x);
          trace.y.push(given.y[n]);
          newX.push(x);
          newY.push(given.y[n]);
          return;
        }
        for (let i = trace.x.length - 1; i >= Math.max(0, trace.x.length - REPLACE_WITHIN); i -= 1) {
          if (order(trace.x[i]) === order(x)) {
            if (trace.y[i] !== given.y[n]) replaced = true;
            trace.y[i] = given.y[n];
            break;
          }
        }
      });
      if (trace.x.length > CAP) {
        trace.x = trace.x.slice(-CAP);
        trace.y = trace.y.slice(-CAP);
      }
      if (newX.length) {
        indices.push(index);
        xs.push(newX);
        ys.push(newY);
      }
    });
    if (replaced) draw(chart);
    else if (indices.length) {
      window.Plotly.extendTraces(chart.plot, { x: xs, y: ys }, indices, CAP);
      fillTable(chart);
    }
  }

  document.addEventListener("live:points", (event) => {
    for (const chart of charts.values()) {
      if (chart.figure.dataset.topic !== event.detail.topic) continue;
      if (document.hidden || !chart.plot.classList.contains("js-plotly-plot")) chart.stale = true;
      else takePoints(chart, event.detail.points);
    }
  });

  async function refetch(chart) {
    if (!chart.figure.dataset.src) return;
    try {
      const answer = await fetch(chart.figure.dataset.src, { headers: { Accept: "application/json" } });
      if (!answer.ok) return;
      adopt(chart, await answer.json());
      chart.stale = false;
      draw(chart);
    } catch {
      // the live dot already says that the server is away
    }
  }

  document.addEventListener("live:heal", (event) => {
    for (const chart of charts.values()) if (chart.figure.dataset.topic === event.detail.topic) refetch(chart);
  });

  // ---- Life of a chart ----

  function start(root) {
    for (const [figure, chart] of charts) {
      if (figure.isConnected) continue;
      window.Plotly.purge(chart.plot);
      charts.delete(figure);
    }
    for (const figure of root.querySelectorAll("figure[data-chart]")) {
      if (charts.has(figure)) continue;
      const payload = document.getElementById(figure.dataset.chart);
      const plot = figure.querySelector(".chart-plot");
      if (!(payload || figure.dataset.src) || !plot || !window.Plotly) continue;
      const chart = { figure, plot, table: figure.querySelector("table") };
      charts.set(figure, chart);
      // In a fragment that htmx swapped in there is no payload: it drops every script element, also one that is data.
      adopt(chart, payload ? JSON.parse(payload.textContent) : {});
      if (payload) draw(chart);
      else refetch(chart);
      chart.table?.closest("details")?.addEventListener("toggle", () => fillTable(chart));
    }
  }

  document.addEventListener("DOMContentLoaded", () => start(document));
  document.addEventListener("htmx:afterSettle", () => start(document));
  document.addEventListener("themechange", () => charts.forEach(draw));
  window.addEventListener("beforeprint", () => charts.forEach(draw));
})();
