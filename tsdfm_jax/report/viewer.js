"use strict";
(() => {
  const data = JSON.parse(document.getElementById("traces").textContent);
  const NAMES = { student_shaped: "shaped student", student_blind: "blind student", teacher: "teacher" };
  const PACE = 1100; // milliseconds a step, when playing
  const SVG = "http://www.w3.org/2000/svg";

  const known = (value) => typeof value === "number";
  const shown = (symbol) => data.vocabulary[symbol] ?? "⟨" + symbol + "⟩";
  const plural = (n, what) => n + " " + what + (n === 1 ? "" : "s");
  const time = (t) => String(Math.round(t * 1e4) / 1e4);

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function drawing(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  /* Every state of a text, from its noise and its differences, and which positions have left the noise by then. */
  function replay(start, differences) {
    const states = [start], touched = [new Uint8Array(start.length)];
    for (const { at, to } of differences) {
      const state = states.at(-1).slice(), left = touched.at(-1).slice();
      at.forEach((position, n) => { state[position] = to[n]; left[position] = 1; });
      states.push(state);
      touched.push(left);
    }
    return { states, touched };
  }

  /* Text into a node: symbols that changed are each a mark, runs of others are one node, those still noise look raw. */
  function write(node, before, touched, difference, mark) {
    const changed = new Map(difference.at.map((position, n) => [position, n]));
    const out = document.createDocumentFragment();
    let run = "", raw = false;
    const flush = () => {
      if (run) out.append(raw ? element("span", "raw", run) : run);
      run = "";
    };
    for (let i = 0; i < before.length; i++) {
      const n = changed.get(i);
      if (n !== undefined) {
        flush();
        out.append(mark(shown(difference.to[n]), difference.energy ? difference.energy[n] : null));
        continue;
      }
      if (raw === Boolean(touched[i])) flush();
      raw = !touched[i];
      run += shown(before[i]);
    }
    flush();
    node.replaceChildren(out);
    if (node.classList.contains("text")) node.style.minHeight = node.offsetHeight + "px"; // what stands below stays in place
  }

  const NOTHING = { at: [], to: [], energy: null };
  const newMark = (text) => element("mark", "new", text);

  /* What both viewers have in common: a choice, a slider, buttons, arrow keys and play; `show(step)` does the rest. */
  function walker(root, names, choose, show) {
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
    go(Math.min(1, last));
    return by;
  }

  /* The range of the middle nine tenths of some numbers, so that one outlier does not flatten the colours. */
  function range(values) {
    const every = Math.ceil(values.length / 50000);
    const sorted = values.filter((value, n) => known(value) && n % every === 0).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    return { low: at(0.05), high: at(0.95), least: sorted[0], most: sorted.at(-1) };
  }

  function trajectories(root) {
    const part = (name) => root.querySelector('[data-part="' + name + '"]');
    let trajectory, told, symbols, energies;

    const place = (value, { low, high }) => (high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0.5);
    function mark(text, energy) {
      const node = element("mark", "changed", text);
      if (known(energy) && symbols) {
        node.style.setProperty("--e", (100 * place(energy, symbols)).toFixed(0) + "%");
        node.title = "energy " + energy;
      } else {
        node.classList.add("untold");
      }
      return node;
    }

    function choose(number) {
      trajectory = data.trajectories[number];
      told = replay(trajectory.start, trajectory.midpoints.map((m) => m.state));
      symbols = range(trajectory.midpoints.flatMap((m) => m.candidates.flatMap((c) => c.energy ?? [])));
      energies = range(trajectory.midpoints.flatMap((m) => m.energy ?? []));
      part("scale").hidden = !symbols;
      if (symbols) {
        part("low").textContent = symbols.low.toFixed(2);
        part("high").textContent = symbols.high.toFixed(2);
      }
      part("map-box").hidden = !energies;
      root.querySelector(".stage").classList.toggle("alone", !energies);
      if (energies) map();
      return trajectory.midpoints.length;
    }

    /* All candidates' energies over all midpoints; a click goes there. */
    const WIDTH = 420, HEIGHT = 210, LEFT = 40, FLOOR = 184;
    const column = (step) => LEFT + ((step - 0.5) * (WIDTH - LEFT - 6)) / trajectory.midpoints.length;
    const height = (energy) => FLOOR - 8 - ((energy - energies.least) / (energies.most - energies.least || 1)) * (FLOOR - 22);

    function map() {
      const svg = part("map"), count = trajectory.midpoints.length, wide = (WIDTH - LEFT - 6) / count;
      const radius = Math.min(4.5, Math.max(1.6, wide / 4));
      svg.setAttribute("viewBox", "0 0 " + WIDTH + " " + HEIGHT);
      const dots = [], won = [];
      trajectory.midpoints.forEach((m, n) => (m.energy ?? []).forEach((energy, k) => {
        if (!known(energy)) return;
        const dot = { cx: column(n + 1), cy: height(energy), r: k === m.kept ? radius * 1.15 : radius, class: k === m.kept ? "won" : "other" };
        (k === m.kept ? won : dots).push(dot);
      }));
      const path = won.map(({ cx, cy }, n) => (n ? "L" : "M") + cx.toFixed(1) + " " + cy.toFixed(1)).join("");
      const times = [0, count - 1].map((n) => [column(n + 1), HEIGHT - 6, time(trajectory.midpoints[n].time), "middle"]);
      const words = [...times, [(LEFT + WIDTH) / 2, HEIGHT - 6, "time", "middle"]];
      words.push([LEFT - 8, height(energies.most) + 4, energies.most.toFixed(2), "end"], [LEFT - 8, height(energies.least) + 4, energies.least.toFixed(2), "end"]);
      svg.replaceChildren(
        drawing("rect", { class: "here", x: 0, y: 4, width: wide, height: FLOOR, rx: 3 }),
        drawing("path", { class: "path", d: path }),
        ...[...dots, ...won].map((dot) => drawing("circle", dot)),
        ...(count > 1 ? words : words.slice(1)).map(([x, y, text, anchor]) => drawing("text", { x, y, "text-anchor": anchor }, text)),
      );
    }

    function show(step) {
      const m = step ? trajectory.midpoints[step - 1] : null;
      const before = told.states[Math.max(step - 1, 0)], touched = told.touched[Math.max(step - 1, 0)];
      write(part("state"), before, touched, m ? m.state : NOTHING, mark);
      const said = status(step, m);
      part("status").replaceChildren(...said.flatMap((words, n) => (n ? [", ", words] : [element("b", "", words)])));
      const drawn = m && m.candidates.length > 1 ? m.candidates : [];
      part("candidates-heading").hidden = part("cards").hidden = !drawn.length;
      part("cards").replaceChildren(...drawn.map((c, k) => card(m, c, k, before, touched)));
      const kept = part("cards").querySelector(".kept");
      if (kept) part("cards").scrollTo({ left: kept.offsetLeft - part("cards").offsetLeft - 16, top: 0 });
      const here = part("map").querySelector(".here");
      if (here) {
        here.setAttribute("x", step ? column(step) - here.getAttribute("width") / 2 : -1000);
      }
      root.dataset.step = step;
      return said.join(", ");
    }

    function status(step, m) {
      const count = trajectory.midpoints.length;
      if (!m) return ["time 0", "the noise it starts from", plural(count, "midpoint") + " to come"];
      const out = ["time " + time(m.time), "midpoint " + step + " of " + count, plural(m.state.at.length, "symbol") + " changed"];
      if (m.candidates.length > 1) {
        const energy = m.energy && known(m.energy[m.kept]) ? " with energy " + m.energy[m.kept] : "";
        out.push(m.shaped ? "candidate " + (m.kept + 1) + " of " + m.candidates.length + " kept" + energy : "the candidates are not compared here");
      }
      return out;
    }

    function card(m, candidate, k, before, touched) {
      const kept = k === m.kept, node = element("li", kept ? "card kept" : "card");
      const head = element("header"), energy = m.energy ? m.energy[k] : null, words = element("div", "words");
      head.append(element("span", "name", k === 0 ? "First draw" : "Draw " + (k + 1)));
      if (kept) head.append(element("span", "badge", "kept"));
      head.append(element("span", "told", (known(energy) ? "energy " + energy + ", " : "") + candidate.at.length + " changed"));
      node.append(head);
      if (known(energy) && energies) {
        const meter = element("div", "meter"), bar = element("i");
        bar.style.width = (4 + 96 * place(energy, { low: energies.least, high: energies.most })).toFixed(1) + "%";
        meter.append(bar);
        node.append(meter);
      }
      write(words, before, touched, candidate, mark);
      node.append(words);
      return node;
    }

    const names = data.trajectories.map((t) => "record " + t.record);
    const by = walker(root, names, choose, show);
    part("map").addEventListener("click", (event) => {
      const box = part("map").getBoundingClientRect();
      const scale = Math.min(box.width / WIDTH, box.height / HEIGHT), left = (box.width - WIDTH * scale) / 2;
      const x = (event.clientX - box.left - left) / scale;
      by(Math.max(1, Math.ceil(((x - LEFT) / (WIDTH - LEFT - 6)) * trajectory.midpoints.length)));
    });
  }

  function students(root) {
    const part = (name) => root.querySelector('[data-part="' + name + '"]');
    const groups = new Map(), seeds = new Set(data.students.map((s) => s.seed));
    for (const s of data.students) {
      const name = "text " + s.index + (seeds.size > 1 ? ", seed " + s.seed : "");
      groups.set(name, [...(groups.get(name) ?? []), s]);
    }
    let texts = [];

    function choose(number) {
      texts = [...groups.values()][number].map((s) => {
        const box = element("div"), head = element("h3", "", NAMES[s.model] ?? s.model), text = element("div", "text");
        box.style.setProperty("--c", s.model in NAMES ? "var(--" + s.model.replace("student_", "") + ")" : "var(--soft)");
        box.append(head, text);
        return { ...s, ...replay(s.start, s.steps), box, text };
      });
      part("texts").replaceChildren(...texts.map((s) => s.box));
      return Math.max(...texts.map((s) => s.steps.length));
    }

    function show(step) {
      const told = texts.map((s) => {
        const n = Math.min(step, s.steps.length), difference = n ? s.steps[n - 1] : NOTHING;
        write(s.text, s.states[Math.max(n - 1, 0)], s.touched[Math.max(n - 1, 0)], difference, newMark);
        return (NAMES[s.model] ?? s.model) + " changed " + plural(difference.at.length, "symbol");
      });
      const last = Math.max(...texts.map((s) => s.steps.length));
      const longest = texts.find((s) => s.steps.length === last);
      const when = "time " + time(step ? longest.steps[step - 1].time : longest.time);
      const said = step ? [when, "step " + step + " of " + last, ...told] : [when, "the noise they start from"];
      part("status").replaceChildren(element("b", "", said[0]), ", " + said.slice(1).join(", "));
      root.dataset.step = step;
      return said.join(", ");
    }

    walker(root, [...groups.keys()], choose, show);
  }

  addEventListener("resize", () => document.querySelectorAll(".viewer .text").forEach((node) => (node.style.minHeight = "")));
  const views = { trajectory: trajectories, student: students };
  for (const [name, view] of Object.entries(views)) {
    const root = document.getElementById(name);
    if (root) view(root);
  }
})();
