"use strict";
/* Shows what goes on, once a second. When a run has ended, the page is loaded again: with its figures, or as the report. */
(() => {
  const strip = document.getElementById("live");
  const part = (selector) => strip.querySelector(selector);
  const COLOURS = JSON.parse(document.getElementById("live-state").textContent).colours;
  const SECOND = 1000;
  const RESTS = 4 * SECOND; // of the reader, before the page is loaded again
  const LOST = 3; // questions without an answer
  let touched = 0;
  let failed = 0;

  function element(tag, text, attributes = {}) {
    const svg = ["svg", "polyline"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  }

  function show(state) {
    part(".head strong").textContent = state.head;
    const bar = part("progress");
    bar.max = Math.max(state.elapsed + state.left, 1);
    bar.value = state.over ? bar.max : state.elapsed;
    const named = state.hosts.length > 1;
    part(".hosts").replaceChildren(...state.hosts.map(([name, line]) => element("li", named ? `${name}: ${line}` : line)));
    part(".messages").replaceChildren(...state.messages.map((text) => element("li", text)));
    part(".problem").hidden = !state.problem;
    part(".problem").textContent = state.problem;
    const list = part("details");
    list.hidden = !state.runs.length;
    list.querySelector("summary").textContent = `Runs that have ended: ${state.ended}`;
    const rest = state.unlisted ? [`not listed: ${state.unlisted} earlier runs, of which ${state.unlisted_failed} failed`] : [];
    list.querySelector("ul").replaceChildren(...rest.map((text) => element("li", text)), ...state.runs.map(([run, status, reason]) =>
      element("li", `${run}: ${status}${reason ? `: ${reason}` : ""}`, { class: status === "complete" ? "" : "failed" })));
    draw(state.curves.filter(({ points }) => points.length > 1));
  }

  /* Round values from zero to the largest. */
  function steps(most) {
    const rough = most / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((each) => each >= rough);
    return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, n) => n * step);
  }

  /* The curves of the runs that go are coloured; those before are faint. */
  function draw(curves) {
    part(".picture").hidden = !curves.length;
    if (!curves.length) return;
    const last = Math.max(...curves.map(({ points }) => points.at(-1)[0])) || 1;
    const most = Math.max(...curves.flatMap(({ points }) => points.map(([, saved]) => saved))) || 1;
    const svg = element("svg", "", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
    const going = curves.filter(({ now }) => now);
    for (const { points, now, name } of curves) {
      const place = points.map(([seconds, saved]) => `${(1000 * seconds / last).toFixed(0)},${(1000 - 1000 * saved / most).toFixed(0)}`);
      const look = now ? { stroke: COLOURS[going.findIndex((each) => each.name === name) % COLOURS.length] } : { class: "earlier" };
      svg.append(element("polyline", "", { points: place.join(" "), ...look }));
    }
    const tick = (kind, at, text) => element("span", text, { class: kind, style: `${kind === "x" ? "left" : "top"}: ${at}%` });
    const spelled = (value, unit) => `${value.toLocaleString("en", { maximumSignificantDigits: 3 })} ${unit}`;
    part(".lines").replaceChildren(svg,
      ...steps(last).map((value) => tick("x", 100 * value / last, spelled(value, "s"))),
      ...steps(most).map((value) => tick("y", 100 - 100 * value / most, spelled(value, "MiB"))));
    const keys = going.map(({ name }, index) => [name, `background: ${COLOURS[index % COLOURS.length]}`]);
    if (going.length < curves.length) keys.push([`runs before: ${curves.length - going.length}`, "background: var(--soft); opacity: .5"]);
    part(".legend").replaceChildren(...keys.map(([name, style]) => {
      const item = element("li", "");
      item.append(element("b", "", { style }), name);
      return item;
    }));
  }

  const busy = () => Date.now() - touched < RESTS || document.querySelector(".menu[open]");

  /* Load the page again. Who reads its top stays there; the browser would follow what was there before. */
  function again() {
    history.scrollRestoration = scrollY ? "auto" : "manual";
    location.reload();
  }

  async function look() {
    try {
      const answer = await fetch("state", { cache: "no-store" });
      const state = await answer.json();
      failed = 0;
      show(state);
      if (state.version !== strip.dataset.version && (state.over || !busy())) again();
    } catch {
      failed += 1;
      if (failed >= LOST) part(".head strong").textContent = "The experiment, or the server of this page, has ended. This page stays as it was.";
    }
    setTimeout(look, failed >= LOST ? 5 * SECOND : SECOND);
  }

  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove"]) {
    addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  }
  show(JSON.parse(document.getElementById("live-state").textContent));
  setTimeout(look, SECOND);
})();
