"use strict";
// Live parts, pause, the slider of revisions, and copying. Without it every page still works.

const policy = globalThis.trustedTypes?.createPolicy("desk", {createHTML: (text) => text});

// The server has escaped what users wrote.
function parsed(html) {
  const template = document.createElement("template");
  template.innerHTML = policy ? policy.createHTML(html) : html;
  return template.content;
}

function live(part) {
  const pause = document.querySelector("[data-pause]");
  const status = document.querySelector("[data-status]");
  const most = Number(part.dataset.most ?? 0);
  let paused = false;
  let waiting = [];

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const replace = (html) => part.replaceChildren(parsed(html));
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

for (const part of document.querySelectorAll("[data-live]")) live(part);

for (const input of document.querySelectorAll("[data-submit]")) {
  const output = input.form.querySelector("output");
  input.addEventListener("input", () => { output.textContent = input.value; });
  input.addEventListener("change", () => input.form.requestSubmit());
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.querySelector(button.dataset.copy).innerText);
    button.textContent = "Copied";
  });
}
