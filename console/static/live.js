"use strict";
// Live parts, pause, counting clocks, charts, the slider of revisions, and copying. Without it every
// page still works.

const policy = globalThis.trustedTypes?.createPolicy("desk", {createHTML: (text) => text});

// The server has escaped what users wrote.
function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  return template.content;
}

function duration(seconds) {
  const [whole, two] = [Math.max(0, Math.floor(seconds)), (number) => String(number).padStart(2, "0")];
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
}

function tick() {
  for (const clock of document.querySelectorAll("[data-seconds]")) {
    const step = Number(clock.dataset.step);
    const seconds = Number(clock.dataset.seconds) + step;
    const missed = step < 0 && seconds <= 0;
    clock.dataset.seconds = seconds;
    clock.textContent = missed ? "✕ missed" : duration(seconds);
    clock.classList.toggle("bad", missed);
  }
}

const charts = [];

// The numbers of a chart are those of a table on the page.
function chart(place) {
  const names = place.dataset.series.split(",");
  const ink = (name) => {
    place.style.color = `var(${name})`;
    const colour = getComputedStyle(place).color;
    place.style.color = "";
    return colour;
  };
  const dashes = [[], [8, 4], [2, 4]];
  const colours = ["--link", "--agent", "--bad"].map(ink);
  const axis = {stroke: ink("--quiet"), grid: {stroke: ink("--line"), width: 1}, ticks: {show: false}};
  const axes = [{...axis, values: "{HH}:{mm}", incrs: [60, 300, 900, 3600, 10800, 86400]}, {...axis, incrs: [1, 2, 5, 10, 20, 50, 100, 1000]}];
  const numbers = () => {
    const rows = [...document.querySelectorAll(`${place.dataset.chart} tbody tr`)];
    const cells = rows.map((row) => [...row.querySelectorAll("[data-value]")].map((cell) => Number(cell.dataset.value)));
    return [0, ...names.keys()].map((_, column) => cells.map((row) => row[column])).slice(0, names.length + 1);
  };
  const size = () => ({width: place.clientWidth, height: 220});
  const series = names.map((label, at) => ({label, stroke: colours[at], dash: dashes[at], width: 2}));
  const scales = {y: {range: (_, low, high) => [0, Math.max(high, 4)]}};
  const tzDate = (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"); // the server has shifted it
  const plot = new uPlot({...size(), series: [{value: "{YYYY}-{MM}-{DD} {HH}:{mm}"}, ...series], axes, scales, tzDate}, numbers(), place);
  charts.push(() => plot.setData(numbers()));
  addEventListener("resize", () => plot.setSize(size()));
}

function live(part) {
  const pause = document.querySelector("[data-pause]");
  const status = document.querySelector("[data-status]");
  const most = Number(part.dataset.most ?? 0);
  let [events, paused, outdated, waiting, place] = [null, false, false, [], part.dataset.revision ?? ""];

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const sayLive = () => say(!paused ? "Live." : waiting.length ? `Paused; updates that wait: ${waiting.length}.` : "Paused.");
  const replace = (html) => {
    const reachable = () => [...part.querySelectorAll("a, summary, [tabindex]")];
    const movable = () => [...part.querySelectorAll("details, .scroll")];
    const focus = reachable().indexOf(document.activeElement);
    const kept = movable().map((each) => [each.open, each.scrollLeft]);
    part.replaceChildren(parsed(html));
    movable().forEach((each, at) => { if (kept[at]) [each.open, each.scrollLeft] = kept[at]; });
    reachable()[focus]?.focus({preventScroll: true});
    charts.forEach((draw) => draw());
  };
  const prepend = (html) => {
    const shown = new Set([...part.children].map((row) => row.dataset.place));
    const rows = [...parsed(html).children].filter((row) => !shown.has(row.dataset.place));
    for (const row of rows) row.classList.add("new");
    part.prepend(...rows);
    while (part.children.length > most) part.lastElementChild.remove();
  };
  const shows = (act) => (event) => {
    place = event.lastEventId || place;
    const html = JSON.parse(event.data);
    if (!paused) act(html);
    else waiting = act === replace ? [[act, html]] : [...waiting, [act, html]].slice(-most);
    sayLive();
  };
  const disconnect = (text) => {
    events?.close();
    events = null;
    say(text);
  };
  const reload = () => {
    outdated = true;
    disconnect(paused ? "Paused; the page is loaded again afterwards." : "The page is loaded again.");
    if (!paused) setTimeout(() => location.reload(), 1000 + 4000 * Math.random());
  };
  const connect = () => {
    if (events || outdated || document.hidden) return;
    events = new EventSource(`${part.dataset.live}&after=${place}`);
    events.addEventListener("open", sayLive);
    events.addEventListener("live", (event) => { place = event.lastEventId || place; sayLive(); });
    events.addEventListener("replace", shows(replace));
    events.addEventListener("prepend", shows(prepend));
    events.addEventListener("away", () => say("Not live now: the service does not answer."));
    events.addEventListener("problem", (event) => disconnect(`Not live: ${JSON.parse(event.data)}.`));
    events.addEventListener("reload", reload);
    events.addEventListener("error", () => { // a browser gives up after some errors
      disconnect("The connection is lost; trying again.");
      setTimeout(connect, 2000 + 3000 * Math.random());
    });
  };
  // A browser opens six connections to a console; hidden pages must not take them all.
  document.addEventListener("visibilitychange", () => document.hidden ? disconnect("Not live while hidden.") : connect());
  addEventListener("pagehide", () => disconnect(""));
  addEventListener("pageshow", connect);

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) for (const [act, html] of waiting.splice(0)) act(html);
    if (outdated) reload(); else if (events) sayLive();
  });
}

for (const place of document.querySelectorAll("[data-chart]")) chart(place);
for (const part of document.querySelectorAll("[data-live]")) live(part);
setInterval(() => { if (document.querySelector("[data-pause][aria-pressed=true]") === null) tick(); }, 1000);

for (const input of document.querySelectorAll("[data-submit]")) {
  const output = input.form.querySelector("output");
  input.addEventListener("input", () => { output.textContent = input.value; });
  input.addEventListener("change", () => input.form.requestSubmit());
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = !navigator.clipboard; // there is none without TLS, except on this machine
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).innerText);
    button.textContent = "Copied";
  });
}
