"use strict";
// Fills the sources of the figures from the data in the page, and again whenever a switch is used.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const shown = () => new Set([...document.querySelectorAll("input.network:checked")].map((box) => Number(box.value)));
  const known = (value) => value !== null && value !== undefined;
  let documents;
  const model = (name) => documents.map((d) => d.get_model_by_name(name)).find((found) => found) ?? null;
  const fill = (name, columns) => {
    const source = model(name);
    if (source) source.data = columns;
  };

  // Sets what a figure shows to the values in it, with some room; the tool that resets a figure goes back to this.
  function fit(name, xs, ys, { least = -Infinity, most = Infinity } = {}) {
    const plot = model(name);
    const range = (target, values, from, to) => {
      const finite = values.filter((value) => Number.isFinite(value));
      if (!finite.length || !target || !("start" in target.properties)) return;
      const low = Math.min(...finite), high = Math.max(...finite), room = 0.04 * (high - low || Math.abs(high) || 1);
      const start = Math.max(from, low - room), end = Math.min(to, high + room);
      Object.assign(target, { start, end, reset_start: start, reset_end: end });
    };
    if (!plot) return;
    if (xs) range(plot.x_range, xs, -Infinity, Infinity);
    range(plot.y_range, ys, least, most);
  }

  // The mean and the range over the seeds at each epoch; over seconds and steps, at the mean of where the runs are then.
  function band(runs, axis, panel) {
    const columns = { x: [], mean: [], low: [], high: [], n: [] };
    const length = Math.max(0, ...runs.map((run) => run.epoch.length));
    for (let i = 0; i < length; i++) {
      const here = runs.filter((run) => known(run[panel][i]) && known(run[axis][i]));
      if (!here.length) continue;
      const values = here.map((run) => run[panel][i]);
      const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
      columns.x.push(mean(here.map((run) => run[axis][i])));
      columns.mean.push(mean(values));
      columns.low.push(Math.min(...values));
      columns.high.push(Math.max(...values));
      columns.n.push(values.length);
    }
    return columns;
  }

  function each(runs, axis, panel) {
    const columns = { xs: [], ys: [], seed: [] };
    for (const run of runs) {
      const places = run[panel].map((_, i) => i).filter((i) => known(run[panel][i]) && known(run[axis][i]));
      columns.xs.push(places.map((i) => run[axis][i]));
      columns.ys.push(places.map((i) => run[panel][i]));
      columns.seed.push(run.seed);
    }
    return columns;
  }

  // What the tooltip says at each epoch: a value for each network.
  function underMouse(bands) {
    const columns = { x: [], y: [], ...Object.fromEntries(bands.map((_, index) => [`value_${index}`, []])) };
    for (let i = 0; i < Math.max(0, ...bands.map((band) => band.x.length)); i++) {
      const there = bands.filter((band) => i < band.x.length);
      columns.x.push(there.reduce((sum, band) => sum + band.x[i], 0) / there.length);
      columns.y.push(there.reduce((sum, band) => sum + band.mean[i], 0) / there.length);
      bands.forEach((band, index) => columns[`value_${index}`].push(i >= band.x.length ? "–"
        : `${band.mean[i].toFixed(4)} (${band.low[i].toFixed(4)} to ${band.high[i].toFixed(4)}, n = ${band.n[i]})`));
    }
    return columns;
  }

  const noBand = { x: [], mean: [], low: [], high: [], n: [] };
  const noLines = { xs: [], ys: [], seed: [] };

  function curves() {
    const point = $("point") ? Number($("point").value) : data.first;
    const axis = chosen("axis"), seeds = chosen("seeds"), visible = shown(), extents = {};
    document.querySelectorAll(".figures .as-band").forEach((text) => { text.hidden = seeds !== "band"; });
    document.querySelectorAll(".figures .as-lines").forEach((text) => { text.hidden = seeds === "band"; });
    for (const panel of ["headline", "loss", "training", "test", "population"]) {
      const headline = panel === "headline", field = headline ? "test" : panel;
      const plot = model(panel);
      if (!plot) continue;
      const where = headline ? "epoch" : axis;
      for (const place of plot.below) if (place.axis_label !== undefined) {
        place.axis_label = where;
        place.ticker.min_interval = where === "seconds" ? 0 : 1;  // there is no half an epoch
      }
      const xs = [], ys = [], bandOf = [];
      data.networks.forEach((network, index) => {
        const there = headline ? data.headline[index] : point;
        const runs = data.runs.filter((run) => run.network === index && run.point === there);
        const drawn = headline || visible.has(index), asBand = headline || seeds === "band";
        const bands = drawn && asBand ? band(runs, where, field) : noBand;
        const lines = drawn && !asBand ? each(runs, where, field) : noLines;
        fill(`${panel}:${network}`, bands);
        bandOf.push(bands);
        fill(`${panel}:${network}:seeds`, lines);
        xs.push(...bands.x, ...lines.xs.flat());
        ys.push(...bands.low, ...bands.high, ...lines.ys.flat());
      });
      fill(`${panel}:under_mouse`, underMouse(bandOf));
      extents[panel] = [xs, ys];
    }
    // Both kinds of statistics on one axis, so that they can be compared by eye.
    for (const [panel, [xs, ys]] of Object.entries(extents)) {
      const both = ["test", "population"].includes(panel)
        ? ["test", "population"].flatMap((name) => extents[name]?.[1] ?? []) : ys;
      fit(panel, xs, both, data.shares && panel !== "loss" ? { least: -0.01, most: 1.01 } : {});
    }
  }

  function rates() {
    if (!model("rates")) return;
    const groups = Object.keys(data.rates), group = $("group") ? $("group").value : groups[0], visible = shown();
    const shown_ = data.networks.map((network, index) => (visible.has(index) ? data.rates[group][network] : null));
    const ys = shown_.flatMap((seen) => (seen ? [...seen.low, ...seen.high] : []));
    const low = Math.min(...ys, data.shares ? 0 : Infinity), high = Math.max(...ys, data.shares ? 1 : -Infinity);
    // One row of crosses for each network, so that none hides another.
    const row = 0.06 * (high - low || 1), floor = Number.isFinite(low) ? low : 0;
    const rows = data.networks.map((network, index) => floor - row * (index + 0.7));
    fit("rates", null, [low, high, ...(shown_.some((seen) => seen && seen.lost_lr.length) ? rows : [])]);
    data.networks.forEach((network, index) => {
      const seen = shown_[index];
      fill(`rates:${network}`, seen ? { lr: seen.lr, mean: seen.mean, low: seen.low, high: seen.high, n: seen.n }
        : { lr: [], mean: [], low: [], high: [], n: [] });
      const lost = seen ? seen.lost_lr : [];
      fill(`rates:${network}:lost`, { lr: lost, y: lost.map(() => rows[index]), lost: seen ? seen.lost : [] });
    });
  }

  const options = (select, values) => {
    const before = select.value;
    select.replaceChildren(...values.map((value) => new Option(value, value)));
    if (values.includes(before)) select.value = before;
  };

  function inside() {
    if (!$("run")) return;
    const run = data.inside[Number($("run").value)], names = Object.keys(run.layers);
    const described = names.filter((name) => run.layers[name].some((seen) => seen && seen.input));
    const norms = described.filter((name) => run.layers[name].some((seen) => seen && seen.output));
    options($("layer"), [...norms, ...described.filter((name) => !norms.includes(name))]);
    const entries = run.layers[$("layer").value] ?? [];
    for (const part of ["input", "output", "gamma", "beta"]) {
      const columns = { step: [], q05: [], q25: [], q50: [], q75: [], q95: [], mean: [] };
      entries.forEach((seen, i) => {
        const figures = seen && seen[part];
        if (!figures || figures.quantiles.includes(null)) return;
        columns.step.push(run.steps[i]);
        ["q05", "q25", "q50", "q75", "q95"].forEach((name, q) => columns[name].push(figures.quantiles[q]));
        columns.mean.push(figures.mean);
      });
      fill(`${part}:fan`, columns);
      fit(part, columns.step, [...columns.q05, ...columns.q95]);
      $(`figure-${part}`).hidden = !columns.step.length;
    }
    layers(run, names);
  }

  const FIGURES = {
    gradient_norm: "norm of the gradient (log10)", update_ratio: "update / weight (log10)",
    input_shift: "shift of the input by a step", dead: "share of dead units",
    running_shift: "running mean off by (deviations)", running_ratio: "running / batch variance (log10)",
    "input.mean": "mean of what goes in", "input.deviation": "deviation of what goes in (log10)",
    "output.mean": "mean of what comes out", "output.deviation": "deviation of what comes out (log10)",
    "gamma.mean": "mean of γ", "beta.mean": "mean of β",
  };
  const of = (seen, figure) => figure.split(".").reduce((found, part) => (known(found) ? found[part] : null), seen);

  function layers(run, names) {
    const has = (name, figure) => run.layers[name].some((seen) => known(of(seen, figure)));
    const select = $("figure"), before = select.value;
    const there = Object.keys(FIGURES).filter((figure) => names.some((name) => has(name, figure)));
    select.replaceChildren(...there.map((figure) => new Option(FIGURES[figure], figure)));
    if (there.includes(before)) select.value = before;
    const figure = select.value, logarithmic = (FIGURES[figure] ?? "").includes("log10");
    const rows = names.filter((name) => has(name, figure));
    const columns = { step: [], layer: [], width: [], colour: [], value: [] };
    const widths = run.steps.map((step, i) => (i + 1 < run.steps.length ? run.steps[i + 1] - step
      : i > 0 ? step - run.steps[i - 1] : 1));
    for (const name of rows) run.layers[name].forEach((seen, i) => {
      const value = of(seen, figure);
      if (!known(value) || (logarithmic && value <= 0)) return;
      columns.step.push(run.steps[i]);
      columns.layer.push(name);
      columns.width.push(widths[i]);
      columns.colour.push(logarithmic ? Math.log10(value) : value);
      columns.value.push(value);
    });
    const mapper = model("layers:mapper"), names_ = model("layers:names");
    if (mapper && columns.colour.length) {
      const low = Math.min(...columns.colour), high = Math.max(...columns.colour);
      mapper.low = low;
      mapper.high = high > low ? high : low + 1;
    }
    if (names_) names_.factors = rows.length ? [...rows].reverse() : [""];
    const plot = model("layers");
    if (plot) plot.height = Math.max(160, 90 + 24 * rows.length);
    fit("layers", columns.step.flatMap((step, i) => [step - columns.width[i] / 2, step + columns.width[i] / 2]), []);
    fill("layers:heat", columns);
  }

  // The figures take the colours of the page.
  function colours() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), soft = style.getPropertyValue("--soft").trim();
    const line = style.getPropertyValue("--line").trim(), ground = style.getPropertyValue("--ground").trim();
    const set = (item, values) => {
      for (const [name, value] of Object.entries(values)) if (name in item.properties) item[name] = value;
    };
    for (const d of documents) for (const item of d._all_models.values()) set(item, {
      axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: line, major_tick_line_color: line,
      minor_tick_line_color: null, grid_line_color: line, label_text_color: ink,
      ...(item.type === "Legend" ? { background_fill_color: ground } : {}),
    });
  }

  function theme() {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", colours);
    $("theme").addEventListener("click", () => {
      const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      colours();
    });
    let before;
    addEventListener("beforeprint", () => { before = root.dataset.theme; root.dataset.theme = "light"; colours(); });
    addEventListener("afterprint", () => {
      if (before === undefined) delete root.dataset.theme; else root.dataset.theme = before;
      colours();
    });
  }

  function tables() {
    const number = (text) => {
      const value = Number(text.replaceAll(",", "").replace("−", "-"));
      return text.trim() === "" || Number.isNaN(value) ? null : value;
    };
    for (const table of document.querySelectorAll("table.sortable")) {
      const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
      heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [row, row.cells[column].textContent]);
        rows.sort(([, a], [, b]) => {
          const x = number(a), y = number(b);
          if (x === null && y === null) return (up ? 1 : -1) * a.localeCompare(b);
          if (x === null || y === null) return x === null ? 1 : -1;  // what is no number comes last
          return (up ? 1 : -1) * (x - y);
        });
        body.replaceChildren(...rows.map(([row]) => row));
      }));
    }
    const tables = [...document.querySelectorAll("table.sortable")];
    document.querySelectorAll("button.download").forEach((button, i) => button.addEventListener("click", () => {
      // For other programs: no thousands separators, no typographic minus, nothing where there is nothing.
      const plain = (text) => (text === "–" ? "" : number(text) === null ? text : text.replaceAll(",", "").replace("−", "-"));
      const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const cell = (text) => quoted(plain(text));
      const lines = [...tables[i].rows].map((row) => [...row.cells].map((c) => cell(c.textContent.trim())).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
      link.download = button.dataset.name;
      link.click();
      URL.revokeObjectURL(link.href);
    }));
  }

  function begin() {
    documents = Bokeh.documents;
    curves(); rates(); inside(); colours(); theme(); tables();
    const redraw = () => { curves(); rates(); };
    document.querySelectorAll('#point, #group, input.network, input[name="axis"], input[name="seeds"]')
      .forEach((control) => control.addEventListener("change", redraw));
    document.querySelectorAll("#run, #layer, #figure").forEach((control) => control.addEventListener("change", inside));
    document.documentElement.dataset.ready = "yes";
  }

  // Bokeh embeds its documents after the page has loaded.
  const wait = () => (window.Bokeh && Bokeh.documents.length ? begin() : setTimeout(wait, 20));
  wait();
})();
