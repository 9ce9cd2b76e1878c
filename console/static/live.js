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
  let paused = false;
  let waiting = [];

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
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
    const rows = parsed(html);
    for (const row of rows.children) row.classList.add("new");
    part.prepend(rows);
    while (part.children.length > most) part.lastElementChild.remove();
  };
  const show = (act, html) => {
    if (!paused) return act(html);
    waiting = act === replace ? [[act, html]] : [...waiting, [act, html]].slice(-most);
    say(`Paused; ${waiting.length} updates wait.`);
  };

  const events = new EventSource(part.dataset.live);
  events.onopen = () => say("Live.");
  events.onerror = () => say("The connection is lost; trying again.");
  events.addEventListener("replace", (event) => show(replace, JSON.parse(event.data)));
  events.addEventListener("prepend", (event) => show(prepend, JSON.parse(event.data)));
  for (const name of ["problem", "reload"]) {
    events.addEventListener(name, (event) => {
      events.close();
      say(`Not live: ${JSON.parse(event.data)}.`);
    });
  }
  addEventListener("pagehide", () => events.close());

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused." : "Live.");
    if (!paused) for (const [act, html] of waiting.splice(0)) act(html);
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
