"use strict";
/* Draws the figures that Python has made, and filters them.

   A figure is JSON next to its element. In each trace, `meta` has the factors that its points have
   in common. `layout.meta` has the number of points (`points`) and the factor on the x axis, if it
   is one (`x`). Plotly gets only what passes the filters. */
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const figureOf = (plot) => plot.closest("figure");
  const plots = all(".plot");
  const sources = new Map(); // plot → its figure as Python has made it
  const drawn = new Set();
  const FEW = 8; // figures that are shown before “more”
  let more = false;
  const filters = document.getElementById("filters");
  const boxes = all("input[name]", filters);
  const everyBox = all("input[data-all]", filters);
  const config = {
    displaylogo: false, showSendToCloud: false, showEditInChartStudio: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toImage"],
  };

  /* --- what is chosen --- */

  const off = (name) => new Set(boxes.filter((b) => b.name === name && !b.checked).map((b) => b.value));

  function chosen() {
    const names = new Set(boxes.map((box) => box.name));
    return Object.fromEntries([...names].map((name) => [name, off(name)]));
  }

  function source(plot) {
    if (!sources.has(plot)) sources.set(plot, JSON.parse(plot.nextElementSibling.textContent));
    return sources.get(plot);
  }

  const layoutOf = (plot) => source(plot).layout.meta ?? {};

  function passes(factors, without) {
    return Object.entries(factors).every(([name, value]) => name === "by" || !without[name]?.has(String(value)));
  }

  /* The traces of a plot that pass the filters, with the points that pass. */
  function traces(plot) {
    const { data, layout } = source(plot);
    const without = chosen();
    const axis = layout.meta?.x;
    return data.map((trace, index) => ({ uid: String(index), ...trace }))
      .filter(({ meta = {} }) => (meta.published ? !without.published?.has("yes") : passes(meta, without)))
      .map((trace) => (trace.meta?.published ? { ...trace, visible: true } : trace))
      .map((trace) => pointwise(trace, axis, without))
      .filter((trace) => length(trace.x));
  }

  /* Filter single points by the factors that differ between points of a trace. */
  function pointwise(trace, axis, without) {
    const factors = { ...trace.meta?.by, ...(axis && !trace.meta?.published && { [axis]: trace.x }) };
    return Object.entries(factors).filter(([name]) => without[name]?.size).reduce(
      (left, [name, values]) => only(left, values.map((value) => !without[name].has(String(value)))), trace);
  }

  function only(trace, keep) {
    const pick = (list) => (Array.isArray(list) ? list.filter((_, index) => keep[index]) : list);
    const bars = (old) => old && { ...old, array: pick(old.array), arrayminus: pick(old.arrayminus) };
    const picked = Object.fromEntries(["x", "y", "base", "text", "customdata"].map((name) => [name, pick(trace[name])]));
    return { ...trace, ...picked, error_x: bars(trace.error_x), error_y: bars(trace.error_y) };
  }

  /* --- drawing --- */

  /* Add the colours of the theme, or those of paper for a downloaded picture. */
  function themed(layout, paper) {
    const [ink, soft, grid, panel] = paper ? ["#1b1f23", "#57606a", "#e4e8ec", "#ffffff"]
      : ["--ink", "--soft", "--grid", "--panel"].map(colour);
    const axis = (old) => ({ ...old, gridcolor: grid, zerolinecolor: soft, linecolor: soft, tickcolor: soft });
    const ground = paper ? "#ffffff" : "rgba(0,0,0,0)";
    return {
      ...layout, paper_bgcolor: ground, plot_bgcolor: ground,
      font: { ...layout.font, color: ink }, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      hoverlabel: { bgcolor: panel, font: { color: ink } }, uirevision: "keep",
    };
  }

  /* The layout for what is shown: without the windows of hidden workloads, and with space for
     published values if panels have the same scale. */
  function fitting(plot, data) {
    const { layout } = source(plot);
    const without = chosen().workload;
    const shown = (list) => list?.filter(({ name }) => !without?.has(name));
    const over = Math.max(...data.filter((trace) => trace.meta?.published).flatMap((trace) => trace.y));
    const [low, high] = layout.yaxis.range ?? [];
    const range = high === undefined ? undefined : [low, Math.max(high, 1.05 * over)];
    return {
      ...layout, shapes: shown(layout.shapes), annotations: shown(layout.annotations),
      yaxis: range ? { ...layout.yaxis, range } : layout.yaxis,
    };
  }

  /* The legend is below the plot: add the height that its names need at this width. */
  function size(width, data, least = 310) {
    const shown = data.filter((trace) => trace.showlegend !== false);
    const names = shown.map((trace) => trace.name.split("<br>"));
    const widest = Math.max(0, ...names.flat().map((line) => line.length)) * 6.6 + 64;
    const columns = Math.max(1, Math.floor((width - 24) / widest));
    const lines = Math.max(1, ...names.map((name) => name.length));
    const rows = Math.ceil(shown.length / columns);
    return { width, height: least + (5 + 15 * lines) * rows };
  }

  /* Plotly is loaded after the page is ready, and only if a figure is visible. */
  let plotly = null;
  function loaded() {
    plotly ??= new Promise((resolve) => setTimeout(() => {
      const code = document.createElement("script");
      code.textContent = document.getElementById("plotly").textContent;
      document.head.append(code);
      resolve();
    }));
    return plotly;
  }

  async function draw(plot) {
    await loaded();
    const figure = figureOf(plot);
    if (figure.hidden) return;
    const data = traces(plot);
    plot.parentElement.hidden = data.length === 0;
    if (!data.length) return;
    const first = !drawn.has(plot);
    drawn.add(plot);
    const layout = { ...themed(fitting(plot, data)), ...size(plot.clientWidth, data, layoutOf(plot).height) };
    await Plotly.react(plot, data, layout, config);
    plot.dataset.drawn = "yes";
    for (const button of all(".modebar-btn", plot)) button.setAttribute("aria-label", button.dataset.title);
    plot.querySelector(".modebar")?.setAttribute("aria-label", "View");
    if (first) {
      resized.observe(plot);
      legend(plot);
      plot.on("plotly_hover", ({ points }) => highlight(points[0].data.meta));
      plot.on("plotly_unhover", () => highlight());
    }
  }

  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.clientWidth && target.clientWidth !== target.layout.width) draw(target);
    }
  });

  /* Draw only what is near the screen: a page of a hundred figures is then as fast as one of ten. */
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
    }
  }, { rootMargin: "600px" });
  plots.forEach((plot) => seen.observe(plot));
  let opened = []; // by printing
  let unfolded = false; // before printing
  window.addEventListener("beforeprint", () => {
    opened = all("details.help:not([open])");
    for (const help of opened) help.open = true;
    unfolded = more;
    unfold();
    plots.forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    opened.forEach((help) => { help.open = false; });
    more = unfolded;
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));

  /* --- filters --- */

  function count(figure) {
    const mine = all(".plot", figure);
    let shown = 0;
    let points = 0;
    for (const plot of mine) {
      const own = traces(plot).filter((trace) => !trace.meta?.published);
      const here = own.reduce((sum, trace) => sum + length(trace.x), 0);
      const everything = source(plot).data.filter((trace) => !trace.meta?.published)
        .reduce((sum, trace) => sum + length(trace.x), 0);
      shown += here;
      points += Math.max(everything, source(plot).layout.meta?.points ?? 0);
    }
    figure.querySelector(".count").textContent =
      `${shown.toLocaleString("en")} of ${points.toLocaleString("en")} points shown`;
  }

  function apply() {
    const without = chosen();
    const figures = all("figure");
    for (const figure of figures) {
      figure.hidden = Boolean(figure.dataset.metric && without.metric?.has(figure.dataset.metric));
      // A figure without lines is hidden too
      figure.hidden ||= all(".plot", figure).every((plot) => !traces(plot).length);
    }
    const folded = more ? [] : figures.filter((figure) => !figure.hidden).slice(FEW);
    for (const figure of folded) figure.hidden = true;
    for (const figure of figures) if (!figure.hidden) refresh(figure);
    for (const row of all("tr[data-guests], details[data-guests]")) row.hidden = !passes(row.dataset, without);
    const merits = all(".merit");
    const first = merits.find((merit) => passes(merit.dataset, without));
    for (const merit of merits) merit.hidden = merit !== first;
    for (const section of all("section.figures")) {
      const own = all("figure", section);
      section.querySelector(".none").hidden = own.some((figure) => !figure.hidden);
      section.hidden = own.every((figure) => figure.hidden) && own.some((figure) => folded.includes(figure));
    }
    fold(folded.length);
    for (const box of everyBox) box.checked = !without[box.dataset.all]?.size;
    for (const button of all(".only")) button.setAttribute("aria-pressed", String(isOnly(button.closest("tr").dataset)));
    summarize(without);
    settingsTable();
  }

  function fold(count) {
    const box = document.getElementById("more");
    box.hidden = !count;
    box.firstChild.textContent = count === 1 ? "Show 1 more figure" : `Show ${count} more figures`;
    all("section.figures:not([hidden])").at(-1)?.after(box);
  }

  function unfold() {
    if (more) return;
    more = true;
    apply();
  }

  function refresh(figure) {
    all(".plot", figure).forEach((plot) => {
      plot.parentElement.hidden = traces(plot).length === 0;
      if (drawn.has(plot)) draw(plot);
    });
    count(figure);
    const table = figure.querySelector(".values");
    if (!table.hidden) fill(table, figure);
  }

  const isFactor = (name) => !["metric", "published"].includes(name);

  function summarize(without) {
    const names = Object.entries(without).filter(([name, values]) => values.size && isFactor(name));
    const words = names.map(([name, values]) => `${name === "guests" ? "numbers of guests" : name}: ${values.size} left out`);
    const figures = all("figure").filter((figure) => !figure.hidden).length;
    filters.querySelector("output").textContent = [`${figures} of ${all("figure").length} figures`, ...words].join(", ");
    for (const tag of all("[data-of]", filters)) {
      const own = boxes.filter((box) => box.name === tag.dataset.of.replace(/^metrics$/, "metric"));
      const on = own.filter((box) => box.checked);
      tag.textContent = on.length === own.length ? "all" : on.length === 1 ? on[0].value : `${on.length} of ${own.length}`;
      tag.closest("summary").classList.toggle("chosen", isFactor(own[0]?.name ?? "metric") && on.length < own.length);
    }
    for (const note of all(".whole")) note.hidden = !names.length;
    const kept = (name) => boxes.filter((box) => box.name === name && box.checked).map((box) => box.value).join("; ");
    document.getElementById("chosen").textContent =
      `Chosen: ${names.map(([name]) => `${name} ${kept(name) || "none"}`).join(", ")}. `;
    filters.querySelector("[type=reset]").hidden = boxes.every((box) => box.checked === box.defaultChecked);
  }

  /* A change by the reader: show it, and keep it in the address. Back undoes it; changes within one menu, one after
     the other, are one step. */
  let menuOfStep = "";
  function change(menu = "") {
    apply();
    remember("", !menu || menu !== menuOfStep);
    menuOfStep = menu;
  }

  function listen() {
    filters.addEventListener("change", (event) => {
      const name = event.target.dataset.all;
      for (const box of boxes) if (box.name === name) box.checked = event.target.checked;
      more ||= (name ?? event.target.name) === "metric"; // a metric that is chosen must be seen
      change(name ?? event.target.name);
    });
    filters.addEventListener("reset", () => setTimeout(change));
    document.getElementById("more").addEventListener("click", () => { unfold(); remember("", false); });
    for (const menu of all(".menu")) {
      menu.addEventListener("toggle", () => { if (menu.open) place(menu); });
    }
    for (const kind of ["click", "focusin"]) {
      document.addEventListener(kind, ({ target }) => {
        for (const menu of all(".menu[open]")) if (!menu.contains(target)) menu.open = false;
      });
    }
    document.addEventListener("keydown", (event) => {
      const menu = event.key === "Escape" && document.querySelector(".menu[open]");
      if (!menu) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  }

  /* Put the choices of a menu below it, within the window. */
  function place(menu) {
    const choices = menu.querySelector("fieldset");
    const { left, bottom } = menu.getBoundingClientRect();
    choices.style.top = `${bottom + 4}px`;
    choices.style.left = `${Math.max(8, Math.min(left, innerWidth - choices.offsetWidth - 8))}px`;
  }

  /* --- one setting alone --- */

  const varied = [...new Set(boxes.map((box) => box.name))].filter(isFactor);

  /* Whether only what has these factors is shown. */
  function isOnly(factors) {
    return boxes.filter((box) => isFactor(box.name) && box.name in factors)
      .every((box) => box.checked === (box.value === String(factors[box.name])));
  }

  /* Show only what has these factors; if that is so already, show everything. */
  function isolate(factors) {
    const everything = isOnly(factors);
    for (const box of boxes) {
      if (isFactor(box.name) && box.name in factors) box.checked = everything || box.value === String(factors[box.name]);
    }
    change();
  }

  /* The name of each setting in a table becomes a button. */
  function settingsAsButtons() {
    if (!varied.length) return;
    for (const row of all("#answer tr[data-guests], .settings tr[data-guests]")) {
      const [cell] = row.cells;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "only";
      button.textContent = cell.textContent;
      button.title = "Show only this setting; again: all";
      button.setAttribute("aria-label", `Show only ${varied.map((name) => `${name} ${row.dataset[name]}`).join(", ")}`);
      button.addEventListener("click", () => isolate(row.dataset));
      cell.replaceChildren(button);
    }
  }

  /* A name in a legend does the same, if its line belongs to some of the settings only. */
  function legend(plot) {
    plot.on("plotly_legendclick", ({ data, curveNumber }) => {
      const meta = data[curveNumber].meta ?? {};
      const factors = Object.fromEntries(varied.filter((name) => name in meta).map((name) => [name, meta[name]]));
      if (!Object.keys(factors).length) return true; // Plotly hides the line in this figure
      isolate(factors);
      return false;
    });
  }

  /* While the pointer is on a line, lines of other settings are faint in all figures. */
  function highlight(meta) {
    const factors = meta && Object.entries(meta).filter(([name]) => varied.includes(name));
    for (const plot of drawn) {
      for (const { uid, meta: of = {} } of plot.data ?? []) {
        const other = factors && factors.some(([name, value]) => name in of && of[name] !== value);
        for (const line of all(`.scatterlayer .trace${CSS.escape(uid)}`, plot)) line.style.opacity = other ? 0.15 : "";
      }
    }
  }

  /* --- the address --- */

  /* What is chosen, as #guests=2&knobs-=…: the values that are shown, or with a minus those that are not,
     whichever are fewer. Nothing if it is as the page opens. A step is what Back undoes. */
  function remember(at, step) {
    const view = new URLSearchParams();
    for (const name of new Set(boxes.map((box) => box.name))) {
      const own = boxes.filter((box) => box.name === name);
      if (own.every((box) => box.checked === box.defaultChecked)) continue;
      const [on, not] = [own.filter((box) => box.checked), own.filter((box) => !box.checked)];
      const fewer = not.length && (!on.length || not.length < on.length) ? [`${name}-`, not] : [name, on];
      for (const box of fewer[1]) view.append(fewer[0], box.value);
    }
    if (more && view.size) view.set("more", "yes");
    if (at && view.size) view.set("at", at);
    const hash = view.size ? `#${view}` : at && `#${at}`;
    if (hash === location.hash) return;
    history[step ? "pushState" : "replaceState"](null, "", hash || location.pathname + location.search);
  }

  function restore() {
    const words = location.hash.slice(1);
    const view = new URLSearchParams(words.includes("=") ? words : "");
    for (const name of new Set(boxes.map((box) => box.name))) {
      const own = boxes.filter((box) => box.name === name);
      // A value that this page does not have would hide everything.
      const asked = (key) => view.getAll(key).filter((value) => own.some((box) => box.value === value));
      const [on, not] = [asked(name), asked(`${name}-`)];
      for (const box of own) {
        box.checked = on.length ? on.includes(box.value) : not.length ? !not.includes(box.value) : box.defaultChecked;
      }
    }
    more ||= view.has("more") || view.has("metric") || view.has("metric-");
    apply();
    const at = view.get("at") ?? words;
    if (at) show(at);
  }

  function show(id) {
    const target = document.getElementById(id);
    if (target?.closest("[hidden]")) unfold();
    target?.scrollIntoView();
  }

  /* Links within the page keep what is chosen. */
  function links() {
    addEventListener("hashchange", () => { menuOfStep = ""; restore(); });
    document.addEventListener("click", (event) => {
      const link = event.target.closest('a[href^="#"]');
      if (!link) return;
      const id = link.hash.slice(1);
      if (!document.getElementById(id)) return;
      event.preventDefault();
      remember(id, true); // before the page scrolls: Back comes to where it was
      menuOfStep = "";
      show(id);
      document.getElementById(id).setAttribute("tabindex", "-1");
      document.getElementById(id).focus({ preventScroll: true });
    });
  }

  /* --- the same numbers, as a table and as files --- */

  const TYPES = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

  /* Numbers are a list, or packed in base64. */
  function numbers(values) {
    if (!values || Array.isArray(values)) return values ?? [];
    if (!values.decoded) {
      const bytes = Uint8Array.from(atob(values.bdata), (letter) => letter.charCodeAt(0));
      Object.defineProperty(values, "decoded", { value: [...new TYPES[values.dtype](bytes.buffer)] });
    }
    return values.decoded;
  }

  const length = (values) => (values?.bdata
    ? Math.floor(values.bdata.replace(/=+$/, "").length * 3 / 4) / TYPES[values.dtype].BYTES_PER_ELEMENT
    : values?.length ?? 0);

  const plain = (text) => new DOMParser().parseFromString(String(text ?? "").replaceAll("<br>", " "), "text/html").body.textContent;
  const title = (axis) => plain(axis?.title?.text ?? axis?.title);

  function rows(figure) {
    const found = [];
    for (const plot of all(".plot", figure)) {
      const panel = plot.parentElement.querySelector(".panel")?.textContent ?? "";
      for (const trace of traces(plot)) {
        const [x, y] = [numbers(trace.x), numbers(trace.y)];
        const name = plain(trace.meta?.line ?? trace.name);
        const detail = (index) => (typeof trace.customdata?.[index] === "string" ? plain(trace.customdata[index]) : "");
        const bound = (bars, side, index) => (bars?.array[index] ? y[index] + side * bars[side > 0 ? "array" : "arrayminus"][index] : null);
        x.forEach((value, index) => found.push([panel, name, detail(index), ...(trace.z ? [y[index], value, trace.z[index]] : [value, y[index], null]),
          bound(trace.error_y, -1, index), bound(trace.error_y, 1, index)]));
      }
    }
    return found;
  }

  function headings(figure) {
    const { data, layout } = source(figure.querySelector(".plot"));
    const third = data.find((trace) => trace.z)?.name;
    const axes = third ? [layout.yaxis, layout.xaxis] : [layout.xaxis, layout.yaxis]; // row, then column
    return ["panel", "line", "of", ...axes.map(title), third, "low", "high"];
  }

  /* Empty columns are left out. */
  function table(figure) {
    const [head, body] = [headings(figure), rows(figure).map((row) => row.map(spelled))];
    const kept = head.map((_, column) => body.some((row) => row[column] !== ""));
    const keep = (row) => row.filter((_, column) => kept[column]);
    return [keep(head), body.map(keep)];
  }

  const spelled = (value) => (value === null || Number.isNaN(value) ? "" : typeof value === "number"
    ? String(Number(value.toPrecision(9))) : String(value));
  const MOST_ROWS = 2000;

  function fill(box, figure) {
    const [head, found] = table(figure);
    const made = document.createElement("table");
    made.className = "numbers";
    const line = (parent, cells, tag) => {
      const row = parent.insertRow();
      for (const cell of cells) {
        const box = document.createElement(tag);
        box.textContent = cell;
        if (tag === "th") box.scope = "col";
        row.append(box);
      }
    };
    line(made.createTHead(), head, "th");
    const body = made.createTBody();
    found.slice(0, MOST_ROWS).forEach((row) => line(body, row, "td"));
    if (found.length > MOST_ROWS) {
      made.createCaption().textContent = `The first ${MOST_ROWS} of ${found.length} rows. The CSV file has all of them.`;
    }
    box.replaceChildren(made);
  }

  function csv(figure) {
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
    const [head, body] = table(figure);
    const lines = [head, ...body];
    const blob = new Blob([lines.map((row) => `${row.map(quoted).join(",")}\n`).join("")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${figure.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async function picture(figure, format) {
    await loaded();
    const shown = all(".plot", figure).filter((plot) => traces(plot).length);
    for (const [index, plot] of shown.entries()) {
      const data = traces(plot);
      const wide = size(900, data, layoutOf(plot).height);
      const panel = plot.parentElement.querySelector(".panel")?.textContent;
      const layout = { ...themed(fitting(plot, data), true), ...wide };
      if (panel) layout.title = { text: panel.replaceAll("<", "&lt;"), font: { size: 13 } };
      const filename = shown.length > 1 ? `${figure.id}-${index + 1}` : figure.id;
      await Plotly.downloadImage({ data, layout }, { format, filename, ...wide, scale: format === "png" ? 2 : 1 });
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    const figure = figureOf(button);
    if (button.dataset.do === "csv") csv(figure);
    else if (button.dataset.do !== "table") picture(figure, button.dataset.do);
    else {
      const box = figure.querySelector(".values");
      box.hidden = !box.hidden;
      button.setAttribute("aria-expanded", String(!box.hidden));
      if (!box.hidden) fill(box, figure);
    }
  });

  /* --- many settings: a table of all of them, and the curves of those that are chosen --- */

  const STEP = 100; // rows that are shown at a time
  const cells = JSON.parse(document.getElementById("cell-data")?.textContent ?? "null");
  const unpacked = new Map(); // metric → the values of all settings
  let sorting = { column: -1, down: false };
  let shownRows = STEP;

  const factorsOf = (n) => Object.fromEntries(cells.factors.map(({ name, values, of }) => [name, values[of[n]]]));
  const nameOf = (n) => Object.entries(factorsOf(n)).filter(([name]) => varied.includes(name))
    .map(([name, value]) => (name === "guests" ? `${value} guests` : value)).join(", ") || "the setting";
  const curvePlots = () => plots.filter((plot) => layoutOf(plot).curve);
  const sameFactors = (meta, n) => Object.entries(factorsOf(n)).every(([name, value]) => String(meta?.[name]) === value);
  const isDrawn = (n) => curvePlots().some((plot) => source(plot).data.some((trace) => sameFactors(trace.meta, n)));

  /* The values of a metric of a setting. */
  function curve(name, n) {
    if (!unpacked.has(name)) unpacked.set(name, numbers({ bdata: cells.curves[name], dtype: "f4" }));
    return unpacked.get(name).slice(n * cells.points, (n + 1) * cells.points);
  }

  /* Draw the curves of a setting, or remove them. */
  function toggle(n) {
    const there = isDrawn(n);
    for (const plot of curvePlots()) {
      const figure = source(plot);
      const { curve: name, scale } = figure.layout.meta;
      if (there) {
        figure.data = figure.data.filter((trace) => !sameFactors(trace.meta, n));
        continue;
      }
      const used = new Set(figure.data.map((trace) => trace.line.color));
      const color = cells.colours.find((each) => !used.has(each)) ?? cells.colours[figure.data.length % cells.colours.length];
      const meta = factorsOf(n);
      const label = [`${meta.guests} guests`, meta.workload, meta.knobs].filter((word) => word !== "0 guests").join(" · ");
      const escaped = label.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
      figure.data.push({
        x: curve("seconds", n), y: curve(name, n).map((value) => value / scale), name: escaped, mode: "lines", meta: { ...meta, guests: Number(meta.guests) },
        line: { color, width: 2 }, hovertemplate: "%{x:,.0f} s: %{y:,.6~g}<extra>%{fullData.name}</extra>",
      });
    }
    unfold();
    apply();
  }

  function sorted() {
    const without = chosen();
    const names = cells.factors.length;
    const passing = [...cells.factors[0].of.keys()].filter((n) => passes(factorsOf(n), without));
    const { column, down } = sorting;
    if (column < 0) return passing;
    const value = column < names ? (n) => cells.factors[column].values[cells.factors[column].of[n]] : (n) => cells.columns[column - names].values[n];
    const order = new Intl.Collator("en", { numeric: true }).compare;
    const rank = (a, b) => (value(a) === null || value(b) === null ? (value(a) === null) - (value(b) === null)
      : (down ? -1 : 1) * (column < names ? order(value(a), value(b)) : value(a) - value(b)));
    return passing.sort(rank);
  }

  function settingsTable() {
    if (!cells) return;
    const table = document.getElementById("cell-table");
    const titles = ["setting", ...cells.columns.map(({ title, unit }) => (unit ? `${title}, ${unit}` : title))];
    const head = document.createElement("tr");
    titles.forEach((title, index) => {
      const cell = document.createElement("th");
      const button = document.createElement("button");
      const column = index ? index - 1 + cells.factors.length : 0;
      const by = sorting.column === column;
      button.type = "button";
      button.className = "only";
      button.textContent = `${title}${by ? (sorting.down ? " ↓" : " ↑") : ""}`;
      button.addEventListener("click", () => {
        sorting = { column, down: by ? !sorting.down : index > 0 };
        settingsTable();
        document.querySelectorAll("#cell-table thead button")[index].focus();
      });
      cell.scope = "col";
      if (!index) cell.className = "text";
      cell.setAttribute("aria-sort", by ? (sorting.down ? "descending" : "ascending") : "none");
      cell.append(button);
      head.append(cell);
    });
    table.tHead.replaceChildren(head);
    const every = sorted();
    table.tBodies[0].replaceChildren(...every.slice(0, shownRows).map((n, index) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      const button = document.createElement("button");
      name.scope = "row";
      button.type = "button";
      button.className = "only";
      button.textContent = nameOf(n);
      button.title = "Draw this setting; again: remove it";
      button.setAttribute("aria-pressed", String(isDrawn(n)));
      button.addEventListener("click", () => {
        toggle(n);
        document.querySelectorAll("#cell-table tbody button")[index].focus(); // the rows are new
      });
      name.append(button);
      row.append(name, ...cells.columns.map(({ values }) => {
        const cell = document.createElement("td");
        cell.textContent = values[n] === null ? "" : values[n].toLocaleString("en", { maximumSignificantDigits: 4 });
        return cell;
      }));
      return row;
    }));
    const rowsShown = Math.min(shownRows, every.length);
    document.getElementById("cell-count").textContent =
      `${rowsShown.toLocaleString("en")} of ${every.length.toLocaleString("en")} settings that are chosen above, of ${cells.factors[0].of.length.toLocaleString("en")}`;
    const more = document.getElementById("cell-more");
    more.hidden = rowsShown === every.length;
    more.textContent = `Show ${Math.min(STEP, every.length - rowsShown)} more`;
  }

  document.getElementById("cell-more")?.addEventListener("click", () => { shownRows += STEP; settingsTable(); });

  listen();
  settingsAsButtons();
  links();
  restore();
  addEventListener("load", () => setTimeout(() => requestIdleCallback(loaded), 1000));
})();
