"use strict";
/* What every viewer of a page has: the page's data, and controls that walk through the steps of one thing at a time. */
const data = JSON.parse(document.getElementById("traces").textContent);
const PACE = 1100; // milliseconds a step, when playing

const plural = (n, what) => n + " " + what + (n === 1 ? "" : "s");
const time = (t) => String(Math.round(t * 1e4) / 1e4);

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/* The controls of a viewer: a select, a slider, buttons, arrow keys and play. `choose(number)` gives the last step of a choice,
   `show(step)` draws a step and gives its words, `start` is the first step shown. */
function walker(root, names, choose, show, start = 1) {
  const part = (name) => root.querySelector('[data-part="' + name + '"]');
  const slider = part("slider"), play = part("play"), select = part("choose");
  let step = 0, last = 0, timer = 0;

  function go(to) {
    step = Math.min(Math.max(to, 0), last);
    slider.value = step;
    part("first").disabled = part("back").disabled = step === 0;
    part("next").disabled = step === last;
    slider.setAttribute("aria-valuetext", show(step));
    if (step === last) stop();
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }
  function toggle() {
    if (timer) return stop();
    if (step === last) go(0);
    timer = setInterval(() => go(step + 1), PACE);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  }
  function by(to) {
    stop();
    go(to);
  }
  names.forEach((name, i) => select.append(new Option(name, i)));
  select.addEventListener("change", () => {
    stop();
    last = slider.max = choose(Number(select.value));
    go(step);
  });
  slider.addEventListener("input", () => by(Number(slider.value)));
  part("first").addEventListener("click", () => by(0));
  part("back").addEventListener("click", () => by(step - 1));
  part("next").addEventListener("click", () => by(step + 1));
  play.addEventListener("click", toggle);
  root.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: step + 1, ArrowLeft: step - 1, Home: 0, End: last };
    if (!(event.key in moves) || event.target.matches("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    by(moves[event.key]);
  });
  last = slider.max = choose(0);
  go(Math.min(start, last));
  return by;
}

