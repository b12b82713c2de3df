(() => {
  const NAMES = { student_shaped: "shaped student", student_blind: "blind student", teacher: "teacher" };
  const SVG = "http://www.w3.org/2000/svg";

  const known = (value) => typeof value === "number";
  const shown = (token) => data.vocabulary[token] ?? "⟨" + token + "⟩";

  function drawing(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  /* All states of a text, from its noise and its differences, and the positions that have changed up to each state. */
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

  /* Write text into a node: a mark for each changed token, one node for each run of others; noise is styled as raw. */
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
    if (node.classList.contains("text")) node.style.minHeight = node.offsetHeight + "px"; // keeps the content below in place
  }

  const NOTHING = { at: [], to: [], energy: null };
  const newMark = (text) => element("mark", "new", text);

  /* The 5th and 95th percentile of the numbers, so that outliers do not flatten the colours, with minimum and maximum. */
  function range(values) {
    const every = Math.ceil(values.length / 50000);
    const sorted = values.filter((value, n) => known(value) && n % every === 0).sort((a, b) => a - b);
    if (!sorted.length) return null;
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    return { low: at(0.05), high: at(0.95), least: sorted[0], most: sorted.at(-1) };
  }

  const place = (value, { low, high }) => (high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0.5);

  /* A mark coloured by a token's energy, if the energy and the scale are known. */
  const energyMark = (scale) => (text, energy) => {
    const node = element("mark", "changed", text);
    if (known(energy) && scale) {
      node.style.setProperty("--e", (100 * place(energy, scale)).toFixed(0) + "%");
      node.title = "energy " + energy;
    } else {
      node.classList.add("untold");
    }
    return node;
  };

  /* One candidate: its energy, and its changes to the previous state. */
  function card(m, k, energies, before, touched, mark) {
    const kept = k === m.kept, energy = m.energy ? m.energy[k] : null;
    const node = element("li", kept ? "card kept" : "card"), head = element("header"), words = element("div", "words");
    head.append(element("span", "name", k === 0 ? "First draw" : "Draw " + (k + 1)));
    if (kept) head.append(element("span", "badge", "kept"));
    head.append(element("span", "told", (known(energy) ? "energy " + energy + ", " : "") + m.candidates[k].at.length + " changed"));
    node.append(head);
    if (known(energy)) {
      const meter = element("div", "meter"), bar = element("i");
      bar.style.width = (4 + 96 * place(energy, { low: energies.least, high: energies.most })).toFixed(1) + "%";
      meter.append(bar);
      node.append(meter);
    }
    write(words, before, touched, m.candidates[k], mark);
    node.append(words);
    return node;
  }

  /* The parts of a step's status line, its time first. */
  function told(midpoints, step) {
    if (!step) return ["time 0", "initial noise", plural(midpoints.length, "midpoint") + " to come"];
    const m = midpoints[step - 1];
    const out = ["time " + time(m.time), "midpoint " + step + " of " + midpoints.length, plural(m.state.at.length, "token") + " changed"];
    if (m.candidates.length > 1) {
      const energy = m.energy && known(m.energy[m.kept]) ? " with energy " + m.energy[m.kept] : "";
      out.push(m.shaped ? "candidate " + (m.kept + 1) + " of " + m.candidates.length + " kept" + energy : "candidates not compared at this midpoint");
    }
    return out;
  }

  /* All candidates' energies at all midpoints; `here(step)` marks the current step, `at(event)` is the step of a click. */
  function energyMap(svg, midpoints, energies) {
    const WIDTH = 420, HEIGHT = 210, LEFT = 40, FLOOR = 184, wide = (WIDTH - LEFT - 6) / midpoints.length;
    const column = (step) => LEFT + (step - 0.5) * wide;
    const height = (energy) => FLOOR - 8 - ((energy - energies.least) / (energies.most - energies.least || 1)) * (FLOOR - 22);
    const radius = Math.min(4.5, Math.max(1.6, wide / 4)), others = [], won = [];
    midpoints.forEach((m, n) => (m.energy ?? []).forEach((energy, k) => {
      if (!known(energy)) return;
      const dot = { cx: column(n + 1), cy: height(energy) };
      if (k === m.kept) won.push({ ...dot, r: radius * 1.15, class: "won" });
      else others.push({ ...dot, r: radius, class: "other" });
    }));
    const path = won.map(({ cx, cy }, n) => (n ? "L" : "M") + cx.toFixed(1) + " " + cy.toFixed(1)).join("");
    const words = [[(LEFT + WIDTH) / 2, HEIGHT - 6, "time", "middle"]];
    for (const n of midpoints.length > 1 ? [0, midpoints.length - 1] : []) words.push([column(n + 1), HEIGHT - 6, time(midpoints[n].time), "middle"]);
    for (const energy of [energies.least, energies.most]) words.push([LEFT - 8, height(energy) + 4, energy.toFixed(2), "end"]);
    const here = drawing("rect", { class: "here", y: 4, width: wide, height: FLOOR, rx: 3 });
    svg.setAttribute("viewBox", "0 0 " + WIDTH + " " + HEIGHT);
    svg.replaceChildren(
      here,
      drawing("path", { class: "path", d: path }),
      ...[...others, ...won].map((dot) => drawing("circle", dot)),
      ...words.map(([x, y, text, anchor]) => drawing("text", { x, y, "text-anchor": anchor }, text)),
    );
    return {
      here: (step) => here.setAttribute("x", step ? column(step) - wide / 2 : -WIDTH),
      at: (event) => {
        const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        return Math.max(1, Math.ceil((at.x - LEFT) / wide));
      },
    };
  }

  function trajectories(root) {
    const part = (name) => root.querySelector('[data-part="' + name + '"]');
    let midpoints, replayed, energies, mark, map;

    function choose(number) {
      const trajectory = data.trajectories[number];
      midpoints = trajectory.midpoints;
      replayed = replay(trajectory.start, midpoints.map((m) => m.state));
      const scale = range(midpoints.flatMap((m) => m.candidates.flatMap((c) => c.energy ?? [])));
      energies = range(midpoints.flatMap((m) => m.energy ?? []));
      mark = energyMark(scale);
      part("scale").hidden = !scale;
      part("low").textContent = scale ? scale.low.toFixed(2) : "";
      part("high").textContent = scale ? scale.high.toFixed(2) : "";
      part("map-box").hidden = !energies;
      root.querySelector(".stage").classList.toggle("alone", !energies);
      map = energies ? energyMap(part("map"), midpoints, energies) : null;
      return midpoints.length;
    }

    function show(step) {
      const m = step ? midpoints[step - 1] : null, last = Math.max(step - 1, 0);
      const before = replayed.states[last], touched = replayed.touched[last], cards = part("cards");
      write(part("state"), before, touched, m ? m.state : NOTHING, mark);
      const drawn = m && m.candidates.length > 1 ? m.candidates : [];
      part("candidates-heading").hidden = cards.hidden = !drawn.length;
      cards.replaceChildren(...drawn.map((_, k) => card(m, k, energies, before, touched, mark)));
      const kept = cards.querySelector(".kept");
      if (kept) cards.scrollTo({ left: kept.offsetLeft - cards.offsetLeft - 16, top: kept.offsetTop - cards.offsetTop - 4 });
      if (map) map.here(step);
      const said = told(midpoints, step);
      part("status").replaceChildren(element("b", "", said[0]), ", " + said.slice(1).join(", "));
      root.dataset.step = step;
      return said.join(", ");
    }

    const by = walker(root, data.trajectories.map((t) => "record " + t.record), choose, show);
    part("map").addEventListener("click", (event) => by(map.at(event)));
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
      const changed = texts.map((s) => {
        const n = Math.min(step, s.steps.length), difference = n ? s.steps[n - 1] : NOTHING;
        write(s.text, s.states[Math.max(n - 1, 0)], s.touched[Math.max(n - 1, 0)], difference, newMark);
        return (NAMES[s.model] ?? s.model) + " changed " + plural(difference.at.length, "token");
      });
      const last = Math.max(...texts.map((s) => s.steps.length));
      const longest = texts.find((s) => s.steps.length === last);
      const when = "time " + time(step ? longest.steps[step - 1].time : longest.time);
      const said = step ? [when, "step " + step + " of " + last, ...changed] : [when, "initial noise"];
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
