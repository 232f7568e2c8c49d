/* The plots, filters, sorting and sliders of a study's report. Its data is in the page. */
(() => {
  "use strict";
  const { marks, metric, tolerance } = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  let palette = new Map();  // of the scheme that is drawn
  const colour = (name) => {
    if (!palette.has(name)) palette.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
    return palette.get(name);
  };
  const number = (value, digits = 3) => value.toLocaleString("en-US", { maximumSignificantDigits: digits });
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const KINDS = ["measured", "front", "baseline", "chosen", "rejected", "failed"];
  const SHAPES = { measured: "circle", front: "circle", baseline: "rectRot", rejected: "crossRot", failed: "triangle" };
  const SIZES = { measured: 4, front: 6, baseline: 8, chosen: 10, rejected: 5, failed: 5 };

  // ---- what is shown ------------------------------------------------------------------------------------------------

  const rows = all("#table tbody tr");
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const kinds = () => new Set(all("#kinds input[name=kind]:checked").map((box) => box.value));

  const filter = () => {
    const wanted = element("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = kinds();
    for (const row of rows) {
      row.hidden = !shown.has(row.dataset.kind) || !wanted.every((word) => words.get(row).includes(word));
    }
    const count = rows.filter((row) => !row.hidden).length;
    element("shown").textContent = count === rows.length ? `${count} trials` : `${count} of ${rows.length} trials`;
  };

  // ---- the table ----------------------------------------------------------------------------------------------------

  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    return cell.classList.contains("number") ? (text === "" ? NaN : Number(text)) : text;
  };
  const compare = (one, other) => {
    if (typeof one === "string") return one.localeCompare(other, "en", { numeric: true });
    if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
    return one - other;
  };
  const sort = (header) => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const column = header.cellIndex;
    all("#table thead th").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
    const keyed = rows.map((row) => [key(row, column), row]);
    const unknown = (value) => typeof value === "number" && Number.isNaN(value);
    keyed.sort(([one], [other]) => (unknown(one) || unknown(other) ? 1 : sign) * compare(one, other));
    element("table").tBodies[0].append(...keyed.map(([, row]) => row));
  };
  const openRow = (found) => {
    const row = element(`trial-${found}`);
    if (!row) return;
    row.hidden = false;
    all("tr.found").forEach((other) => other.classList.remove("found"));
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };

  // ---- the plots ----------------------------------------------------------------------------------------------------

  const star = (size, fill) => {
    const canvas = document.createElement("canvas");
    const scale = window.devicePixelRatio || 1;
    canvas.width = canvas.height = 2 * size * scale;
    const context = canvas.getContext("2d");
    context.translate(size * scale, size * scale);
    context.beginPath();
    for (let corner = 0; corner < 10; corner += 1) {
      const radius = (corner % 2 ? 0.42 : 1) * size * scale;
      const angle = (Math.PI / 5) * corner - Math.PI / 2;
      context.lineTo(radius * Math.cos(angle), radius * Math.sin(angle));
    }
    context.closePath();
    context.fillStyle = fill;
    context.fill();
    canvas.style.width = canvas.style.height = `${2 * size}px`;
    return canvas;
  };

  const dataset = (kind, position, shown) => ({
    label: kind,
    data: shown.has(kind) ? marks.filter((mark) => mark.kind === kind).map(position).filter(Boolean) : [],
    pointStyle: SHAPES[kind] ?? star(SIZES[kind], colour(kind)),
    pointRadius: SIZES[kind],
    pointHoverRadius: SIZES[kind] + 2,
    pointHitRadius: 8,
    backgroundColor: kind === "measured" ? "transparent" : colour(kind),
    borderColor: colour(kind),
    borderWidth: kind === "rejected" ? 2.5 : 1.5,
    clip: false,
    order: -KINDS.indexOf(kind),
  });

  const onFront = (mark) => mark.cost && mark.difference && { x: mark.cost[0], y: mark.difference[0], mark };
  const inside = ({ x, y }) => (point) => point && point.x >= x[0] && point.x <= x[1] && point.y >= y[0] && point.y <= y[1];
  const inOrder = (mark) => ({ x: mark.number, y: mark.speed_up ?? 0, mark });
  const isFinalist = (mark) => ["front", "chosen", "baseline"].includes(mark.kind);

  const stairs = (shown) => {
    const points = marks.filter((mark) => isFinalist(mark) && onFront(mark)).map(onFront).sort((a, b) => a.x - b.x);
    const front = points.reduce((kept, point) => (kept.length && point.y <= kept.at(-1).y ? kept : [...kept, point]), []);
    return {
      label: "stairs", type: "line", stepped: "before", pointRadius: 0, pointHitRadius: 0, borderWidth: 1.5, order: 9,
      borderColor: colour("front"), data: shown.has("front") ? front.map(({ x, y }) => ({ x, y })) : [],
    };
  };

  const intervals = {
    id: "intervals",
    beforeDatasetsDraw({ ctx, data, scales: { x, y }, chartArea: area }) {
      ctx.save();
      ctx.beginPath();
      ctx.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
      ctx.clip();
      const level = y.getPixelForValue(-tolerance);
      ctx.setLineDash([5, 4]);
      ctx.strokeStyle = ctx.fillStyle = colour("quiet");
      ctx.beginPath();
      ctx.moveTo(area.left, level);
      ctx.lineTo(area.right, level);
      ctx.stroke();
      ctx.font = "12px system-ui, sans-serif";
      ctx.textAlign = "right";
      ctx.fillText(`tolerated loss ${number(tolerance)}`, area.right - 6, level + 14);
      ctx.setLineDash([]);
      for (const { mark } of data.datasets.flatMap((set) => set.data).filter((point) => point.mark)) {
        ctx.strokeStyle = colour(mark.kind);
        ctx.globalAlpha = isFinalist(mark) ? 0.75 : 0.25;
        ctx.beginPath();
        const [cost, left, right] = mark.cost.map((value) => x.getPixelForValue(value));
        const [difference, low, high] = mark.difference.map((value) => y.getPixelForValue(value));
        ctx.moveTo(cost, low);
        ctx.lineTo(cost, high);
        ctx.moveTo(left, difference);
        ctx.lineTo(right, difference);
        ctx.stroke();
      }
      ctx.restore();
    },
    afterDatasetsDraw({ ctx, data, scales: { x, y } }) {
      ctx.save();
      ctx.font = "600 12px system-ui, sans-serif";
      ctx.textAlign = "right";
      ctx.lineWidth = 3;
      ctx.lineJoin = "round";
      ctx.strokeStyle = colour("card");
      for (const { mark } of data.datasets.flatMap((set) => set.data).filter((point) => point.mark && isFinalist(point.mark))) {
        ctx.fillStyle = colour(mark.kind);
        const place = [mark.number, x.getPixelForValue(mark.cost[0]) - 8, y.getPixelForValue(mark.difference[0]) - 8];
        ctx.strokeText(...place);
        ctx.fillText(...place);
      }
      ctx.restore();
    },
  };

  const axis = (text, more = {}) => ({
    title: { display: true, text, color: colour("quiet") },
    grid: { color: colour("grid") },
    border: { color: colour("line") },
    ticks: { color: colour("quiet"), maxRotation: 0, autoSkipPadding: 16, includeBounds: false },
    ...more,
  });

  const spread = (values, room) => {
    const low = Math.min(...values), high = Math.max(...values);
    const margin = (high - low) * room || Math.abs(high) * 0.1 || 1;
    return [low - margin, high + margin];
  };

  const limits = (whole) => {
    const near = marks.filter((mark) => onFront(mark) && (whole || isFinalist(mark)));
    if (!near.length) return { x: [0, 1], y: [-1, 1] };
    const x = spread(near.flatMap((mark) => mark.cost), 0.06);
    return { x: [Math.max(0, x[0]), x[1]], y: spread([...near.flatMap((mark) => mark.difference), -tolerance, 0], 0.08) };
  };

  const text = ({ number: trial, kind, label, reason, cost, difference, speed_up }) => [
    `Trial ${trial}, ${kind}: ${label}`,
    ...(cost && difference ? [
      `US$ ${number(cost[0])} per 1000 images [${number(cost[1])}, ${number(cost[2])}]`,
      `${metric} ${signed(difference[0])} [${signed(difference[1])}, ${signed(difference[2])}]`,
    ] : []),
    ...(speed_up ? [`${speed_up.toFixed(2)}x the baseline's throughput`] : []),
    reason,
  ];
  const shortened = (line) => (line.length > 74 ? `${line.slice(0, 73)}…` : line);

  const pick = (mark) => {
    const link = document.createElement("a");
    link.href = `#trial-${mark.number}`;
    link.textContent = "in the table";
    element("picked").replaceChildren(`${text(mark).join(". ")}. `, link);
  };

  const options = (scales, onPick) => ({
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    interaction: { mode: "nearest", intersect: true },
    scales,
    onHover: (event, found) => { event.native.target.style.cursor = found.length ? "pointer" : ""; },
    onClick: (_, found, chart) => {
      const point = found.length && chart.data.datasets[found[0].datasetIndex].data[found[0].index];
      if (point && point.mark) onPick(point.mark);
    },
    plugins: {
      legend: { display: false },
      tooltip: {
        filter: ({ raw }) => Boolean(raw.mark),
        displayColors: false,
        backgroundColor: colour("ink"), bodyColor: colour("card"), padding: 10,
        callbacks: { title: () => "", label: ({ raw }) => text(raw.mark).map(shortened) },
      },
    },
  });

  const charts = [];
  const draw = () => {
    charts.splice(0).forEach((chart) => chart.destroy());
    palette = new Map();
    const shown = kinds();
    const whole = element("whole").checked;
    const { x, y } = limits(whole);
    const isInside = inside({ x, y });
    const visible = (mark) => (isInside(onFront(mark)) ? onFront(mark) : null);
    const front = new Chart(element("front-plot"), {
      type: "scatter",
      data: { datasets: [stairs(shown), ...KINDS.map((kind) => dataset(kind, visible, shown))] },
      options: options({
        x: axis("US$ per 1000 images", { min: x[0], max: x[1] }),
        y: axis(`${metric}, difference from the baseline`, { min: y[0], max: y[1] }),
      }, pick),
      plugins: [intervals],
    });
    const order = new Chart(element("order-plot"), {
      type: "scatter",
      data: { datasets: KINDS.map((kind) => dataset(kind, inOrder, shown)) },
      options: options({
        x: axis("trial", { min: -0.5, max: marks.length ? marks.at(-1).number + 0.5 : 1,
          ticks: { color: colour("quiet"), maxRotation: 0, autoSkipPadding: 16, precision: 0,
            callback: (value) => (Number.isInteger(value) ? value : "") } }),
        y: axis("speed-up", { min: 0, grace: "8%",
          ticks: { color: colour("quiet"), includeBounds: false,
            callback: (value) => (value === 0 ? "no result" : `${number(value)}x`) } }),
      }, pick),
    });
    charts.push(front, order);
    const outside = marks.map(onFront).filter((point) => point && !isInside(point)).length;
    element("outside").hidden = outside === 0;
    element("outside").textContent = `${outside} measured ${outside === 1 ? "trial lies" : "trials lie"} outside: tick “whole range”.`;
  };

  const walk = (chart, by) => {
    const places = chart.data.datasets
      .flatMap((set, datasetIndex) => set.data.map((point, index) => ({ datasetIndex, index, point })))
      .filter(({ point }) => point.mark)
      .sort((one, other) => one.point.x - other.point.x || one.point.mark.number - other.point.mark.number);
    if (!places.length) return;
    const at = places.findIndex(({ point }) => point.mark.number === chart.walked);
    const next = places[at < 0 ? (by > 0 ? 0 : places.length - 1) : (at + by + places.length) % places.length];
    chart.walked = next.point.mark.number;
    chart.setActiveElements([next]);
    chart.tooltip.setActiveElements([next], { x: 0, y: 0 });
    chart.update();
    pick(next.point.mark);
  };
  const steer = (index) => (event) => {
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (by) walk(charts[index], by);
    else if (event.key === "Enter" && charts[index].walked !== undefined) openRow(charts[index].walked);
    else return;
    event.preventDefault();
  };

  // ---- the images ---------------------------------------------------------------------------------------------------

  const view = () => {
    const chosen = document.querySelector("input[name=view]:checked");
    if (chosen) all(".strip").forEach((strip) => { strip.className = `strip ${chosen.value}`; });
    const strip = document.querySelector("input[name=strip]:checked");
    if (strip) all(".strip").forEach((one) => { one.hidden = one.id !== strip.value; });
  };

  all(".compare input").forEach((slider) => {
    slider.addEventListener("input", () => slider.parentElement.style.setProperty("--at", `${slider.value}%`));
  });
  all("input[name=view], input[name=strip]").forEach((radio) => radio.addEventListener("change", view));
  all("#kinds input").forEach((box) => box.addEventListener("change", () => { filter(); draw(); }));
  all("#table thead th").forEach((header) => header.firstElementChild.addEventListener("click", () => sort(header)));
  element("search").addEventListener("input", filter);
  ["front-plot", "order-plot"].forEach((id, index) => element(id).addEventListener("keydown", steer(index)));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#trial-']");
    if (!link) return;
    event.preventDefault();
    openRow(link.hash.slice("#trial-".length));
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  view();
  filter();
  draw();
})();
