/* Trajectories of images, level by level from noise (t = 1) to data, with x beside u. */
(() => {
  const LARGE = 224, SMALL = 56; // longest side of a picture in CSS pixels

  /* Put a picture into an image element, with its longest side at most `side` and, if small, a whole multiple of its pixels. */
  function put(node, source, [height, width], side, alt) {
    const fit = side / Math.max(height, width), scale = fit >= 1 ? Math.floor(fit) : fit;
    node.src = source;
    node.width = Math.round(width * scale);
    node.height = Math.round(height * scale);
    node.alt = alt;
  }

  function levels(root) {
    const part = (name) => root.querySelector('[data-part="' + name + '"]');
    let shown, columns;

    function column(n) {
      const node = element("button");
      node.type = "button";
      node.setAttribute("aria-label", "To t = " + time(shown.t[n]));
      for (const name of ["x", "u"]) {
        const image = element("img", "pixels");
        put(image, shown[name][n], shown[name + "_shape"], SMALL, "");
        node.append(image);
      }
      node.append(element("span", "", "t = " + time(shown.t[n])));
      node.addEventListener("click", () => by(n));
      return node;
    }

    function choose(number) {
      shown = data.trajectories[number];
      columns = shown.t.map((_, n) => column(n));
      part("strip").replaceChildren(...columns);
      return shown.t.length - 1;
    }

    function show(step) {
      const when = "t = " + time(shown.t[step]), last = shown.t.length - 1;
      for (const name of ["x", "u"]) put(part(name), shown[name][step], shown[name + "_shape"], LARGE, name + " at " + when);
      columns.forEach((node, n) => node.setAttribute("aria-pressed", n === step));
      const box = part("strip").parentElement, here = columns[step];
      box.scrollLeft = here.offsetLeft - columns[0].offsetLeft - (box.clientWidth - here.offsetWidth) / 2; // keeps the level in sight
      const said = [when, step ? "step " + step + " of " + last + (step === last ? ", the last" : "") : "noise, " + plural(last, "step") + " to come"];
      if (shown.label !== null) said.push("class " + shown.label);
      part("status").replaceChildren(element("b", "", said[0]), ", " + said.slice(1).join(", "));
      root.dataset.step = step;
      return said.join(", ");
    }

    const by = walker(root, data.trajectories.map((t) => t.name), choose, show, 0);
  }

  levels(document.getElementById("levels"));
})();
