// A run's curves, drawn when its section is first seen: one cursor and one zoom over all of them.
for (const place of document.querySelectorAll(".curves")) {
  const watch = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    watch.disconnect();
    drawCurves(place);
  });
  watch.observe(place);
}

function drawCurves(place) {
  const run = JSON.parse(document.getElementById(place.dataset.of).textContent);
  const whole = run.first < run.last ? [run.first, run.last] : [run.first - 1, run.last + 1];
  const night = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(place).getPropertyValue(name).trim();
  const make = (tag, text = "", name = "") =>
    Object.assign(document.createElement(tag), { textContent: text, className: name });

  // Dark for the first layer, light for the last; by night the other end of viridis is left out.
  const viridis = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const ramp = (depth) => {
    const at = (night.matches ? 0.25 + 0.75 * depth : 0.88 * depth) * 4, low = Math.min(at | 0, 3);
    const mixed = viridis[low].map((c, i) => c + (viridis[low + 1][i] - c) * (at - low));
    return `rgb(${mixed.map(Math.round).join(" ")})`;
  };
  const hue = (index, of) =>
    `hsl(${(210 + 360 * index / of) % 360} 65% ${night.matches ? 65 : 40}%)`;
  const stroke = (line, index, lines) => line.depth !== null ? ramp(line.depth)
    : line.name === "outside the layers" ? color("--quiet") : hue(index, lines.length);

  const short = (value) => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e9) return String(value);
    if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(3).replace(/\.?0+e\+?/, "e");
    return String(Number(value.toPrecision(4)));
  };
  // Powers alone, some six of them; between two powers of ten 2 and 5 too, where there is room.
  const wholeSteps = Array.from({ length: 27 }, (_, n) => [1, 2, 5][n % 3] * 10 ** (n / 3 | 0));
  const powers = (base, low, high) => {
    const [first, last] = [low, high].map((end) => Math.log(end) / Math.log(base));
    const few = base === 10 && last - first < 3, every = Math.max(1, Math.ceil((last - first) / 6));
    const ticks = [];
    for (let power = Math.floor(first / every) * every; power <= last; power += every) {
      for (const times of few ? [1, 2, 5] : [1]) ticks.push(times * base ** power);
    }
    return ticks.filter((tick) => tick >= low && tick <= high);
  };
  const raised = (power) =>
    `2${[...String(power)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("")}`;
  const steps = (differences) => { let step = 0; return differences.map((more) => step += more); };

  let plots = [], shown = whole;
  const said = make("output");
  const show = (range) => {
    shown = range;
    for (const plot of plots) plot.setScale("x", { min: range[0], max: range[1] });
    said.textContent = `steps ${Math.ceil(range[0])} to ${Math.floor(range[1])}`;
  };
  const zoom = (factor) => {
    const middle = (shown[0] + shown[1]) / 2, half = Math.max((shown[1] - shown[0]) * factor / 2, 1);
    show([Math.max(middle - half, whole[0]), Math.min(middle + half, whole[1])]);
  };

  const options = (scale, lines, base = Number(scale.slice(4))) => ({
    width: 300,
    height: 190,
    cursor: {
      y: false,
      // The others follow the cursor; a zoom they are told of by `show`.
      sync: {
        key: place.dataset.of, scales: ["x", null], setSeries: false,
        filters: { pub: (type) => type === "mousemove" || type === "mouseleave" },
      },
      focus: { prox: 16 },
      drag: { x: true, y: false },
      bind: { dblclick: () => () => { show(whole); } },
    },
    focus: { alpha: 0.35 },
    scales: {
      x: { time: false, range: (_, low, high) => low < high ? [low, high] : [low - 1, high + 1] },
      y: scale === "linear" ? {} : { distr: 3, log: base },
    },
    axes: [0, 1].map((side) => ({
      stroke: color("--quiet"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { stroke: color("--line"), width: 1, size: 4 },
      size: side ? 56 : 32,
      values: (_, ticks) =>
        ticks.map((tick) => side && base === 2 ? raised(Math.round(Math.log2(tick))) : short(tick)),
      ...(!side ? { incrs: wholeSteps } : !base ? {} : {
        splits: (_, __, low, high) => powers(base, low, high), filter: (_, ticks) => ticks,
      }),
    })),
    legend: { markers: { width: 0, fill: (plot, line) => plot.series[line].stroke(plot, line) } },
    series: [{ label: "step", value: (_, step) => step === null ? "–" : String(step) }, ...lines],
    hooks: {
      setScale: [(plot, key) => {
        const { min, max } = plot.scales[key];
        if (key === "x" && (min !== shown[0] || max !== shown[1])) show([min, max]);
      }],
      draw: [(plot) => {
        if (run.broke === null) return;
        const { ctx, bbox } = plot, x = Math.round(plot.valToPos(run.broke, "x", true));
        if (x < bbox.left || x > bbox.left + bbox.width) return;
        ctx.save();
        ctx.strokeStyle = color("--ink");
        ctx.lineWidth = devicePixelRatio;
        ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        ctx.restore();
      }],
    },
  });

  const add = (title, given, data) => {
    const card = make("div", "", "curve"), heading = make("h4", title);
    card.append(heading);
    place.lastChild.append(card);
    const plot = new uPlot(given, data, card);
    plots.push(plot);
    // What the library switches at a click, a key switches too.
    for (const label of card.querySelectorAll(".u-series:not(:first-child) th")) {
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        label.click();
      });
    }
    if (given.series.length > 4) {
      const all = make("button", "all on or off");
      all.type = "button";
      all.addEventListener("click", () => {
        const on = plot.series.slice(1).some((line) => !line.show);
        plot.setSeries(null, { show: on });
      });
      heading.append(" ", all);
    }
  };

  const draw = () => {
    const were = plots.map((plot) => plot.series.map((line) => line.show));
    for (const plot of plots) plot.destroy();
    plots = [];
    const bar = make("div", "", "bar");
    for (const [text, act] of [["Zoom in", () => zoom(0.5)], ["Zoom out", () => zoom(2)],
                               ["Whole run", () => show(whole)]]) {
      const button = make("button", text);
      button.type = "button";
      button.addEventListener("click", act);
      bar.append(button);
    }
    bar.append(said);
    place.replaceChildren(bar, make("div", "", "grid"));
    for (const { title, scale, lines } of run.panels) {
      const data = uPlot.join(lines.map((line) => [steps(line.steps), line.values]));
      const series = lines.map((line, index) => ({
        label: line.name, stroke: stroke(line, index, lines), width: 1.25, points: { size: 4 },
        value: (_, value) => value === null || value === undefined ? "–" : short(value),
      }));
      add(title, options(scale, series), data);
    }
    if (run.events.length) {
      const count = run.events.length;
      const data = uPlot.join(run.events.map((event, row) => {
        const at = steps(event.steps);
        return [at, at.map(() => count - row)];
      }));
      const series = run.events.map((event, row) => ({
        label: event.name, paths: () => null,
        points: { show: true, size: 6, fill: hue(row, count), stroke: hue(row, count) },
        stroke: hue(row, count),
        value: (plot, _, line, index) =>
          typeof index !== "number" || plot.data[line][index] === undefined ? "–"
            : `at ${plot.data[0][index]}`,
      }));
      const given = options("linear", series);
      given.scales.y = { range: [0.5, count + 0.5] };
      Object.assign(given.axes[1], { values: () => [], grid: { show: false }, ticks: { show: false } });
      given.height = 80 + 18 * count;
      add("Events", given, data);
    }
    were.forEach((lines, place) => lines.forEach((on, line) => {
      if (!on) plots[place].setSeries(line, { show: false });
    }));
    fit();
    show(shown);
  };
  const fit = () => {
    for (const plot of plots) {
      const width = plot.root.parentElement.clientWidth;
      if (width !== plot.width) plot.setSize({ width, height: plot.height });
    }
  };
  draw();
  new ResizeObserver(fit).observe(place);
  night.addEventListener("change", draw);
}
