// The panels beside the mosaics: numbers, the current frame, the jobs and their curve. And how elements are made.

function h(tag, properties = {}, ...children) {
  const { dataset, ...plain } = properties, element = Object.assign(document.createElement(tag), plain);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

function select(options, label, chosen) {
  const element = h("select", { ariaLabel: label, title: label, onchange: () => chosen(element.value) });
  refill(element, options, options[0]);
  return element;
}

/** Change the options only where they differ: an open list must not close under the hand. */
function refill(element, options, value) {
  const now = [...element.options].map((o) => o.value);
  if (now.join("\n") !== options.join("\n")) element.replaceChildren(...options.map((o) => h("option", { value: o }, o)));
  if (element.value !== value) element.value = value;
}

function timeText(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  return s < 6000 ? `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

const number = (value, digits, unit) => (value === null || value === undefined ? "–" : `${value.toFixed(digits)}${unit}`);

/** Rates and quality, one line each; what ought to be zero and is not stands out. */
class Rates {
  constructor() {
    this.cells = {};
    this.element = h("section", { className: "pb-rates", ariaLabel: "rates" });
    for (const name of ["detector", "inferred", "refused", "dropped", "latency", "confidence", "network", "on screen"]) {
      this.cells[name] = h("dd", { dataset: { rate: name } }, "–");
      this.element.append(h("dt", {}, name), this.cells[name]);
    }
  }

  news(n) {
    const wrong = { refused: n.refused > 0, dropped: n.dropped > 0 };
    const texts = {
      detector: `${n.frames} frames`,
      inferred: `${n.inferred} · ${number(n.frames_per_second, 0, "/s")}`,
      refused: `${n.refused}`,
      dropped: `${n.dropped}`,
      latency: n.latency_ms_p50 === null ? "–" : `${number(n.latency_ms_p50, 0, "")} ms (95 %: ${number(n.latency_ms_p95, 0, "")})`,
      confidence: number(n.confidence, 2, ""),
      network: n.model || "–",
    };
    for (const [name, text] of Object.entries(texts)) this.set(name, text, wrong[name]);
  }

  set(name, text, wrong = false) {
    this.cells[name].textContent = text;
    this.cells[name].classList.toggle("pb-wrong", Boolean(wrong));
  }
}

/** The latest diffraction pattern, logarithmic; masked pixels in a colour that no count has. */
class FramePanel {
  constructor() {
    this.canvas = h("canvas", { className: "pb-frame", width: 1, height: 1, ariaLabel: "latest frame" });
    this.caption = h("figcaption", {}, "no frame yet");
    this.element = h("figure", { className: "pb-framebox" }, this.canvas, this.caption);
    this.table = colourTable("inferno");
    this.table[0] = 0xffb49756; // masked: sky blue
    this.canvas.onpointermove = (event) => this.say(event);
    this.canvas.onpointerleave = () => this.describe();
  }

  take(message, [data]) {
    const [height, width] = message.shape, { canvas } = this, context = canvas.getContext("2d");
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = this.table[data[i]];
    context.putImageData(image, 0, 0);
    Object.assign(this, { message, data });
    this.describe();
  }

  describe() {
    if (!this.message) return;
    const { number: index, size, top, masked } = this.message;
    this.caption.textContent = `frame ${index + 1} · ${size[1]} × ${size[0]} · log, up to ${+top.toPrecision(4)} counts · ${masked} masked (blue)`;
  }

  say(event) {
    if (!this.message) return;
    const box = this.canvas.getBoundingClientRect(), [height, width] = this.message.shape, [rows, columns] = this.message.size;
    const y = Math.floor(((event.clientY - box.top) / box.height) * height), x = Math.floor(((event.clientX - box.left) / box.width) * width);
    const shown = this.data[Math.min(y, height - 1) * width + Math.min(x, width - 1)];
    const counts = Math.expm1(((shown - 1) / 254) * Math.log1p(this.message.top));
    const place = `row ${Math.floor((y * rows) / height)}, column ${Math.floor((x * columns) / width)}`;
    this.caption.textContent = `${place}: ${shown === 0 ? "masked" : `about ${+counts.toPrecision(2)} counts`}`;
  }
}

/** The jobs, newest first, and the R factor of the chosen one. */
class Jobs {
  constructor(act, compare) {
    Object.assign(this, { act, compare, chosen: "", rows: new Map() });
    this.body = h("tbody");
    const heads = ["job", "state", "progress", "R factor", "time left", ""].map((t) => h("th", { scope: "col" }, t));
    this.table = h("table", {}, h("thead", {}, h("tr", {}, ...heads)), this.body);
    this.none = h("p", { className: "pb-none" }, "No jobs yet. Dispatch sends the run to be reconstructed.");
    this.curve = h("div", { className: "pb-curve" });
    this.element = h("section", { className: "pb-jobs", ariaLabel: "jobs" }, h("div", { className: "pb-joblist" }, this.none, this.table), this.curve);
  }

  news({ jobs, actions }) {
    this.none.hidden = jobs.length > 0;
    this.table.hidden = jobs.length === 0;
    const ids = new Set(jobs.map((j) => j.job_id));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    if (!ids.has(this.chosen)) this.chosen = jobs[0]?.job_id ?? "";
    jobs.forEach((job, k) => {
      const row = this.rows.get(job.job_id) ?? this.row(job.job_id);
      if (this.body.children[k] !== row) this.body.insertBefore(row, this.body.children[k] ?? null);
      this.fill(row, job, actions);
    });
    this.draw(jobs.find((j) => j.job_id === this.chosen));
  }

  row(id) {
    const choose = h("button", { className: "pb-plain", onclick: () => (this.chosen = id) }, id);
    const cancel = h("button", { dataset: { action: "cancel_job", job: id }, onclick: () => this.act("cancel_job", id, cancel) }, "Cancel");
    const compare = h("button", { dataset: { compare: id }, onclick: () => this.compare(id) }, "Compare");
    const bar = h("progress", { max: 1 }), cells = ["td", "td", "td", "td", "td", "td"].map((tag) => h(tag));
    cells[0].append(choose);
    cells[2].append(bar);
    cells[5].append(cancel, compare);
    const row = h("tr", { dataset: { job: id } }, ...cells);
    Object.assign(row, { parts: { bar, cancel, compare, cells } });
    this.rows.set(id, row);
    return row;
  }

  fill(row, job, actions) {
    const { bar, cancel, compare, cells } = row.parts, ended = ["done", "failed", "cancelled", "lost"].includes(job.state);
    row.classList.toggle("pb-chosen", job.job_id === this.chosen);
    row.dataset.state = job.state;
    cells[1].textContent = job.state;
    cells[1].title = job.reason;
    if (job.progress === null && !ended) bar.removeAttribute("value");
    else bar.value = job.progress ?? (job.state === "done" ? 1 : 0);
    cells[3].textContent = number(job.r_factor, 4, "");
    cells[4].textContent = ended ? "" : timeText(job.seconds_left);
    cancel.hidden = ended || !actions.includes("cancel_job");
    compare.hidden = !job.picture;
  }

  draw(job) {
    const values = (job?.curve ?? []).filter((v) => v > 0);
    this.curve.hidden = values.length < 2;
    if (values.length >= 2) this.curve.innerHTML = curveSvg(values, job.recipe === "train" ? "loss" : "R factor");
  }
}

/** A curve on a logarithmic axis with its decades' 1, 2 and 5 as lines. */
function curveSvg(values, name) {
  const [width, height, left, bottom, top] = [360, 150, 46, 20, 18], logs = values.map(Math.log10);
  const low = Math.min(...logs) - 0.03, high = Math.max(...logs) + 0.03;
  const x = (k) => left + (k / (values.length - 1)) * (width - left - 8), y = (v) => top + ((high - v) / (high - low)) * (height - top - bottom);
  const ticks = [];
  for (let decade = Math.floor(low); decade <= high; decade++) {
    for (const n of [1, 2, 5]) {
      const at = decade + Math.log10(n);
      if (at < low || at > high) continue;
      ticks.push(`<line x1="${left}" x2="${width - 8}" y1="${y(at)}" y2="${y(at)}" class="pb-grid"/><text x="${left - 5}" y="${y(at) + 4}" text-anchor="end">${+(n * 10 ** decade).toPrecision(1)}</text>`);
    }
  }
  const line = logs.map((v, k) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${name}, now ${values.at(-1).toPrecision(3)}"><text x="${left}" y="12">${name}, now ${values.at(-1).toPrecision(3)}</text>${ticks.join("")}<polyline points="${line}"/><text x="${width - 8}" y="${height - 5}" text-anchor="end">time</text></svg>`;
}
