/* What torch-tb-profiler's page asks of google.charts, drawn by Chart.js and plain DOM, so that it needs no internet. */
(() => {
  "use strict";

  const COLOURS = [
    "#4477aa", "#ee8866", "#44aa99", "#cc6677", "#bbaa33", "#aa4499", "#77aadd", "#882255", "#99bb55", "#888888",
  ];
  const NAME_LENGTH = 30;
  const LEGEND_ROWS = 12;
  const LEAST_LABELLED = 0.04;
  const INK = "#3c4043";

  Chart.defaults.font.family = "Roboto, Arial, sans-serif";
  Chart.defaults.color = INK;
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;

  // ---- data ---------------------------------------------------------------------------------------------------------

  const value = (cell) => (cell !== null && typeof cell === "object" && "v" in cell ? cell.v : cell);
  const text = (cell) => {
    if (cell !== null && typeof cell === "object" && "f" in cell) return cell.f;
    return cell === null || cell === undefined ? "" : typeof cell === "number" ? cell.toLocaleString("en-US") : `${cell}`;
  };
  const shortened = (name) => (name.length > NAME_LENGTH ? `${name.slice(0, NAME_LENGTH - 1)}…` : name);
  const lines = (html) => `${html}`.split(/<br\s*\/?>|\n/).map((line) => line.replace(/<[^>]*>/g, "").trim());

  class DataTable {
    columns = [];
    rows = [];
    properties = new Map();

    addColumn(column, label) {
      this.columns.push(typeof column === "string" ? { type: column, label } : column);
    }
    addRow(row) {
      this.rows.push(row);
    }
    addRows(rows) {
      for (const row of rows) this.rows.push(row); // as arguments of one call, a hundred thousand are too many
    }
    setProperty(row, column, name, setting) {
      this.properties.set(`${row} ${column} ${name}`, setting);
    }
    getProperty(row, column, name) {
      return this.properties.get(`${row} ${column} ${name}`);
    }

    /* The columns of figures, each with its own column of tooltips if it has one. */
    series() {
      const found = [];
      this.columns.forEach((column, index) => {
        if (index === 0) return;
        if (column.role === "tooltip") found[found.length - 1].tooltip = index;
        else if (!column.role) found.push({ index, label: column.label ?? `${index}` });
      });
      return found;
    }
  }

  const arrayToDataTable = ([header, ...rows]) => {
    const table = new DataTable();
    for (const cell of header) table.addColumn(typeof cell === "object" ? { ...cell, label: cell.label } : { label: cell });
    table.addRows(rows);
    return table;
  };

  // ---- charts -------------------------------------------------------------------------------------------------------

  const handlers = new WeakMap();
  const events = {
    addListener(chart, event, handler) {
      const known = handlers.get(chart) ?? {};
      (known[event] ??= []).push(handler);
      handlers.set(chart, known);
    },
  };
  const fire = (chart, event, detail) => (handlers.get(chart)?.[event] ?? []).forEach((handler) => handler(detail));

  class Drawing {
    constructor(element) {
      this.element = element;
      this.selection = [];
    }
    draw(table, options) {
      this.clearChart();
      this.table = table;
      const frame = document.createElement("div");
      frame.style.cssText = `position: relative; width: 100%; height: ${Number(options.height) || 300}px`;
      const canvas = document.createElement("canvas");
      frame.append(canvas);
      this.element.replaceChildren(frame);
      const settings = this.settings(table, options);
      settings.options.onClick = (_, [hit]) => this.picked(hit);
      settings.options.plugins.title = { display: Boolean(options.title), text: options.title, font: { size: 14 } };
      this.chart = new Chart(canvas, settings);
      fire(this, "ready");
    }
    picked(hit) {
      this.selection = hit ? [{ row: hit.index, column: this.table.series()[hit.datasetIndex].index }] : [];
      fire(this, "select");
    }
    clearChart() {
      this.chart?.destroy();
      this.chart = undefined;
    }
    getSelection() {
      return this.selection;
    }
    setSelection(selection) {
      this.selection = selection ?? [];
    }
  }

  const percentages = {
    id: "percentages",
    afterDatasetsDraw(chart) {
      const { ctx } = chart;
      const total = chart.getDatasetMeta(0).total;
      ctx.save();
      ctx.fillStyle = "#fff";
      ctx.font = `500 12px ${Chart.defaults.font.family}`;
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      chart.getDatasetMeta(0).data.forEach((slice, index) => {
        const share = chart.data.datasets[0].data[index] / total;
        if (share < LEAST_LABELLED || !chart.getDataVisibility(index)) return;
        const { x, y } = slice.getCenterPoint();
        ctx.fillText(`${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`, x, y);
      });
      ctx.restore();
    },
  };

  class PieChart extends Drawing {
    settings(table, options) {
      const names = table.rows.map((row) => text(row[0]));
      const values = table.rows.map((row) => value(row[1]));
      const total = values.reduce((sum, one) => sum + one, 0);
      const colours = options.colors ?? COLOURS;
      return {
        type: "doughnut",
        plugins: [percentages],
        data: {
          labels: names,
          datasets: [{ data: values, backgroundColor: names.map((_, index) => colours[index % colours.length]) }],
        },
        options: {
          cutout: `${100 * (options.pieHole ?? 0)}%`,
          layout: { padding: 8 },
          plugins: {
            legend: { position: "right", display: options.legend !== "none", labels: this.legend() },
            tooltip: {
              callbacks: {
                title: ([item]) => names[item.dataIndex].match(/.{1,80}/g),
                label: ({ raw }) => ` ${raw.toLocaleString("en-US")} (${((100 * raw) / total).toFixed(1)} %)`,
              },
            },
          },
        },
      };
    }
    legend() {
      const standard = Chart.overrides.doughnut.plugins.legend.labels.generateLabels;
      return {
        boxWidth: 12,
        filter: (item, { datasets }) => item.index < LEGEND_ROWS && datasets[0].data[item.index] > 0,
        generateLabels: (chart) => standard(chart).map((item) => ({ ...item, text: shortened(item.text) })),
      };
    }
  }

  /* Bars, areas and lines over one axis: what the other charts have in common. */
  class AxisChart extends Drawing {
    type = "bar";
    gap = 0.8;

    datasets(table, options) {
      const colours = options.colors ?? COLOURS;
      return table.series().map(({ index, label }, order) => ({
        label,
        data: table.rows.map((row) => value(row[index])),
        backgroundColor: colours[order % colours.length],
        borderColor: colours[order % colours.length],
        categoryPercentage: this.gap,
        barPercentage: 1,
      }));
    }
    settings(table, options) {
      const stacked = Boolean(options.isStacked);
      return {
        type: this.type,
        data: { labels: table.rows.map((row) => text(row[0])), datasets: this.datasets(table, options) },
        options: {
          interaction: { mode: "nearest", intersect: true },
          scales: {
            x: { stacked, title: titled(options.hAxis), grid: { display: false } },
            y: { stacked, title: titled(options.vAxis), beginAtZero: true },
          },
          plugins: {
            legend: { position: "bottom", labels: { boxWidth: 12 } },
            tooltip: { callbacks: this.tooltip(table) },
          },
        },
      };
    }
    tooltip(table) {
      const series = table.series();
      const own = ({ datasetIndex, dataIndex }) => {
        const { tooltip } = series[datasetIndex];
        return tooltip === undefined ? undefined : lines(table.rows[dataIndex][tooltip]);
      };
      return { title: (items) => (items.length && own(items[0]) ? [] : undefined), label: (item) => own(item) };
    }
  }

  const titled = (axis) => ({ display: Boolean(axis?.title), text: axis?.title });

  class ColumnChart extends AxisChart {}

  class SteppedAreaChart extends AxisChart {
    gap = 0.98;
  }

  class ComboChart extends AxisChart {
    datasets(table, options) {
      return super.datasets(table, options).map((set, order) => {
        const { type, targetAxisIndex } = options.series?.[order] ?? {};
        return { ...set, type: type === "line" ? "line" : "bar", yAxisID: targetAxisIndex ? "y1" : "y" };
      });
    }
    settings(table, options) {
      const settings = super.settings(table, options);
      const second = settings.data.datasets.some((set) => set.yAxisID === "y1");
      if (second) settings.options.scales.y1 = { position: "right", beginAtZero: true, grid: { display: false } };
      return settings;
    }
  }

  /* A curve over a numeric axis. Dragging zooms in, a right click out again, as the memory view's table follows. */
  class LineChart extends AxisChart {
    type = "line";

    datasets(table, options) {
      return super.datasets(table, options).map((set, order) => ({
        ...set,
        data: table.rows.map((row) => ({ x: value(row[0]), y: value(row[table.series()[order].index]) })),
        borderWidth: 1.5,
        pointRadius: 0,
        pointHitRadius: 6,
      }));
    }
    settings(table, options) {
      const settings = super.settings(table, { ...options, isStacked: false });
      delete settings.data.labels;
      Object.assign(settings.options.scales.x, { type: "linear", bounds: "data" });
      return settings;
    }
    draw(table, options) {
      super.draw(table, options);
      if (options.explorer) this.zoomable(this.chart.canvas);
    }
    zoomable(canvas) {
      let from;
      canvas.addEventListener("pointerdown", (event) => (from = event.button === 0 ? event.offsetX : undefined));
      canvas.addEventListener("pointerup", (event) => {
        if (from !== undefined && Math.abs(event.offsetX - from) > 8) this.zoom(from, event.offsetX);
        from = undefined;
      });
      canvas.addEventListener("contextmenu", (event) => {
        event.preventDefault();
        this.zoom();
      });
    }
    zoom(...pixels) {
      const [min, max] = pixels.sort((a, b) => a - b).map((pixel) => this.chart.scales.x.getValueForPixel(pixel));
      Object.assign(this.chart.options.scales.x, { min, max });
      this.chart.update();
      // The page notices a changed range by changes of the chart's elements.
      this.chart.canvas.parentElement.append(document.createComment(""));
    }
    setSelection(selection) {
      super.setSelection(selection);
      const points = this.selection.map(({ row }) => ({ datasetIndex: 0, index: row }));
      this.chart?.tooltip.setActiveElements(points, { x: 0, y: 0 });
      this.chart?.update();
    }
    getChartLayoutInterface() {
      const { chartArea, scales } = this.chart;
      return {
        getChartAreaBoundingBox: () => ({ ...chartArea, width: chartArea.right - chartArea.left }),
        getHAxisValue: (pixel) => scales.x.getValueForPixel(pixel),
      };
    }
  }

  // ---- tables and time lines ------------------------------------------------------------------------------------------

  const element = (tag, style, content = "") => {
    const made = document.createElement(tag);
    made.style.cssText = style;
    made.textContent = content;
    return made;
  };

  class Table {
    constructor(container) {
      this.container = container;
      this.page = 0;
    }
    draw(table, options) {
      this.table = table;
      this.size = options.page === "enable" ? options.pageSize ?? 10 : table.rows.length;
      this.order = table.rows.map((_, index) => index);
      if (options.sortColumn === undefined) this.show();
      else this.sort(options.sortColumn, options.sortAscending ?? true);
    }
    sort(column, ascending) {
      this.sorted = { column, ascending };
      const key = (index) => value(this.table.rows[index][column]);
      const compare = (a, b) => (typeof a === "number" ? a - b : `${a}`.localeCompare(`${b}`));
      this.order.sort((a, b) => (ascending ? 1 : -1) * compare(key(a), key(b)));
      this.page = 0;
      this.show();
    }
    show() {
      const grid = element("table", `border-collapse: collapse; width: 100%; font: 12px Roboto, Arial, sans-serif; color: ${INK}`);
      const first = this.page * this.size;
      grid.append(this.head());
      for (const index of this.order.slice(first, first + this.size)) grid.append(this.row(index));
      const box = element("div", "overflow: auto; max-height: 100%");
      box.append(grid, ...(this.order.length > this.size ? [this.pager()] : []));
      this.container.style.height = "100%";
      this.container.replaceChildren(box);
    }
    head() {
      const row = element("tr", "");
      this.table.columns.forEach((column, index) => {
        const mark = this.sorted?.column === index ? (this.sorted.ascending ? " ▲" : " ▼") : "";
        const style = `padding: 2px 8px; border-bottom: 2px solid #bdc1c6; text-align: ${side(column)}; cursor: pointer`;
        const cell = element("th", style, (column.label ?? "") + mark);
        cell.onclick = () => this.sort(index, !(this.sorted?.column === index && this.sorted.ascending));
        row.append(cell);
      });
      return row;
    }
    row(index) {
      const row = element("tr", "");
      this.table.columns.forEach((column, position) => {
        const own = this.table.getProperty(index, position, "style") ?? "";
        const style = `padding: 2px 8px; border-bottom: 1px solid #e0e0e0; text-align: ${side(column)}; ${own}`;
        row.append(element("td", style, text(this.table.rows[index][position])));
      });
      return row;
    }
    pager() {
      const last = Math.ceil(this.order.length / this.size) - 1;
      const bar = element("div", "padding: 6px");
      const turn = (label, to) => {
        const button = element("button", "margin-right: 6px", label);
        button.disabled = to < 0 || to > last;
        button.onclick = () => {
          this.page = to;
          this.show();
        };
        return button;
      };
      bar.append(turn("◀", this.page - 1), turn("▶", this.page + 1), ` page ${this.page + 1} of ${last + 1}`);
      return bar;
    }
  }

  const side = (column) => (column.type === "number" ? "right" : "left");

  /* Bars in rows: a level, a name, a tooltip, a start and an end each. */
  class Timeline {
    constructor(container) {
      this.container = container;
    }
    draw(table) {
      const rows = table.rows.map(([level, name, hint, start, end]) => ({ level, name, hint, start, end }));
      const from = rows.reduce((least, row) => Math.min(least, row.start), Infinity);
      const whole = rows.reduce((most, row) => Math.max(most, row.end), -Infinity) - from || 1;
      const levels = [...new Set(rows.map((row) => row.level))];
      const names = [...new Set(rows.map((row) => row.name))];
      const box = element("div", `position: relative; height: ${26 * levels.length}px; font: 12px Roboto, Arial, sans-serif`);
      for (const { level, name, hint, start, end } of rows) {
        const colour = COLOURS[names.indexOf(name) % COLOURS.length];
        const bar = element(
          "div",
          `position: absolute; box-sizing: border-box; height: 24px; padding: 4px; overflow: hidden; white-space: nowrap;
           color: #fff; background: ${colour}; border-right: 1px solid #fff; top: ${26 * levels.indexOf(level)}px;
           left: ${(100 * (start - from)) / whole}%; width: ${(100 * (end - start)) / whole}%`,
          name,
        );
        bar.title = hint;
        box.append(bar);
      }
      this.container.replaceChildren(box);
    }
  }

  // A wide table of operators scrolls by itself, and does not push half of each chart out of the page.
  document.head.append(element("style", "", "main { min-width: 0 } .ant-table-wrapper { overflow-x: auto }"));

  window.google = {
    charts: { load: () => Promise.resolve(), setOnLoadCallback: (callback) => callback() },
    visualization: {
      DataTable, arrayToDataTable, events,
      PieChart, ColumnChart, ComboChart, LineChart, SteppedAreaChart, Table, Timeline,
    },
  };
})();
