// The dashboard: joins the parts, answers the kernel, and obeys the buttons. A link has send(message),
// listen(callback(header, buffers)) -> stop, and interrupt() or null.

const SILENT_MS = 3000;
const DEAF = 5; // so many acknowledgements without effect, more than a slow line explains: the kernel does not hear
const ARMED_MS = 3000;
const BUTTONS = [
  ["pause", "Pause", "at the next checkpoint", ["running"]],
  ["resume", "Resume", "go on from the last checkpoint", ["paused"]],
  ["stop_and_keep", "Stop & keep", "end the scan here; the run counts as good", ["running", "paused", "pausing"]],
  ["abort", "Abort", "end the scan; the run is marked as aborted", ["running", "paused", "pausing"]],
  ["dispatch", "Dispatch", "reconstruct what there is of this run", null],
];

class Dashboard {
  constructor(element, link) {
    Object.assign(this, { link, viewer: crypto.randomUUID?.() ?? String(Math.random()), waiting: 0, actions: new Map() });
    Object.assign(this, { heard: performance.now(), news: null, arrived: 0, fresh: [], paints: [], queue: Promise.resolve() });
    Object.assign(this, { acknowledged: 0, kernelHeard: 0 });
    this.mosaic = new Mosaic(() => this.wantPaint(), (wish) => this.show(wish));
    this.rates = new Rates();
    this.frame = new FramePanel();
    this.jobs = new Jobs((...what) => this.act(...what), (job) => this.mosaic.compareWith(job));
    this.build(element);
    this.stop = link.listen((header, buffers) => this.take(header, buffers.map(bytes)));
    this.timer = setInterval(() => this.second(), 1000);
    this.observer = new ResizeObserver(() => this.wantPaint());
    this.observer.observe(this.root);
    this.hello();
  }

  build(element) {
    this.title = h("b", { className: "pb-title" });
    this.state = h("span", { className: "pb-state", role: "status" }, "connecting");
    this.bar = h("progress", { max: 1, value: 0, ariaLabel: "progress of the scan" });
    this.left = h("span", { className: "pb-left" });
    this.note = h("div", { className: "pb-note", role: "alert", hidden: true });
    this.reply = h("div", { className: "pb-reply", role: "status", hidden: true });
    this.buttons = BUTTONS.map(([action, text, title]) => {
      const button = h("button", { title, disabled: true, dataset: { action }, onclick: () => this.press(action, button) }, text);
      return button;
    });
    const head = h("header", { className: "pb-head" }, this.title, this.state, this.bar, this.left, h("span", { className: "pb-buttons" }, ...this.buttons));
    const aside = h("aside", {}, this.rates.element, this.frame.element);
    this.root = h("div", { className: "pb" }, head, this.note, this.reply, h("div", { className: "pb-main" }, this.mosaic.element, aside), this.jobs.element);
    this.root.dashboard = this; // for tests and the console
    element.replaceChildren(this.root);
  }

  // messages

  hello() {
    this.link.send({ t: "hello", viewer: this.viewer });
    this.mosaic.wish();
  }

  show(wish) {
    this.link.send({ t: "show", viewer: this.viewer, ...wish });
  }

  take(header, buffers) {
    this.heard = performance.now();
    if (header.t === "open") this.hello();
    else this.queue = this.queue.then(() => this.handle(header, buffers)).catch((error) => console.error("ptycho-bluesky dashboard:", error));
  }

  async handle(header, buffers) {
    if (header.deflate) buffers = await Promise.all(buffers.map(inflate));
    if (header.t === "tiles") this.fresh.push(header.time);
    const takers = {
      news: () => this.takeNews(header),
      canvas: () => this.mosaic.canvas(header),
      tiles: () => this.mosaic.tiles(header, buffers),
      picture: () => this.mosaic.pictureCame(header, buffers),
      path: () => this.mosaic.pathCame(header, new Float32Array(buffers[0].slice().buffer)),
      frame: () => this.frame.take(header, buffers),
      reply: () => this.takeReply(header),
    };
    takers[header.t]?.();
    this.arrived = Math.max(this.arrived, header.n);
    this.kernelHeard = header.heard;
    if (document.hidden || !this.root.offsetParent) this.acknowledge(); // nothing is painted there
    else this.wantPaint();
  }

  acknowledge() {
    if (this.arrived === this.acknowledged) return;
    this.acknowledged = this.arrived;
    this.link.send({ t: "ack", viewer: this.viewer, n: this.arrived });
  }

  // painting: once per frame of the screen, however many messages came

  wantPaint() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.mosaic.draw();
      const now = performance.timeOrigin + performance.now();
      if (this.fresh.length) this.paints.push([now, now - this.fresh[0] * 1000]);
      if (this.paints.length > 2000) this.paints.splice(0, 1000);
      this.fresh = [];
      this.acknowledge();
    });
  }

  second() {
    this.mosaic.follow();
    const now = performance.timeOrigin + performance.now(), recent = this.paints.filter(([t]) => now - t < 2000);
    this.rates.set("on screen", `${(recent.length / 2).toFixed(0)} images/s`);
    const silent = performance.now() - this.heard > SILENT_MS;
    this.root.classList.toggle("pb-silent", silent);
    if (silent) this.hello(); // a kernel that was away, or had given us up, begins anew
    this.notes(silent);
  }

  // news

  takeNews(news) {
    this.news = news;
    this.title.textContent = news.title;
    const state = news.engine || news.live || "no scan";
    this.state.textContent = state;
    this.state.dataset.state = state;
    this.root.dataset.state = state;
    const total = news.expected, done = news.inferred;
    if (total) this.bar.value = Math.min(1, done / total);
    else this.bar.removeAttribute("value");
    this.bar.hidden = !total && !done;
    const left = news.seconds_left !== null && state !== "idle" ? ` · ${timeText(news.seconds_left)} left` : "";
    this.left.textContent = total ? `${done} / ${total}${left}` : done ? `${done} frames` : "";
    for (const [k, [action, , , states]] of BUTTONS.entries()) {
      const button = this.buttons[k];
      button.hidden = !news.actions.includes(action);
      button.disabled = button.dataset.busy === "yes" || (states ? !states.includes(news.engine) : !news.run_uid);
    }
    this.rates.news(news);
    this.jobs.news(news);
    this.mosaic.news(news);
    this.notes(false);
  }

  notes(silent) {
    const n = this.news, doubtful = n?.trusted === false;
    const text = silent
      ? "No news from the kernel: what is shown may be old."
      : doubtful
        ? `Do not trust this image: ${n.doubt || "it does not explain the frames"}`
        : (n?.message ?? "");
    this.note.hidden = !text;
    if (this.note.textContent !== text) this.note.textContent = text;
    this.root.classList.toggle("pb-doubtful", doubtful);
    this.root.classList.toggle("pb-early", Boolean(n?.live) && n.trusted === null && n.inferred > 0);
  }

  // buttons

  /** Abort asks twice; the others act at once. */
  press(action, button) {
    if (action === "abort" && button.dataset.armed !== "yes") {
      button.dataset.armed = "yes";
      button.textContent = "Abort: sure?";
      setTimeout(() => {
        button.dataset.armed = "no";
        button.textContent = "Abort";
      }, ARMED_MS);
      return;
    }
    this.act(action, "", button);
  }

  act(action, job, button) {
    const id = crypto.randomUUID?.() ?? String(Math.random());
    const deaf = this.acknowledged - this.kernelHeard >= DEAF;
    button.dataset.busy = "yes";
    button.disabled = true;
    const free = () => {
      button.dataset.busy = "no";
      button.disabled = false;
    };
    this.actions.set(id, free);
    setTimeout(() => this.actions.delete(id) && free(), 5000);
    const interrupts = ["pause", "abort", "stop_and_keep"].includes(action) && this.news?.engine === "running";
    if (deaf && this.news?.blocking && interrupts && this.link.interrupt) {
      this.interruptTwice(); // as Ctrl-C twice at a console: the RunEngine pauses, the cell ends, the kernel hears again
      if (action === "pause") return;
    }
    this.link.send({ t: "act", viewer: this.viewer, id, action, job });
  }

  async interruptTwice() {
    await this.link.interrupt();
    setTimeout(() => this.link.interrupt(), 300);
  }

  takeReply({ id, ok, text }) {
    const free = this.actions.get(id);
    if (!free) return; // another viewer's
    this.actions.delete(id);
    free();
    this.reply.textContent = text;
    this.reply.hidden = !text;
    this.reply.classList.toggle("pb-wrong", !ok);
    clearTimeout(this.replyTimer);
    this.replyTimer = setTimeout(() => (this.reply.hidden = true), ok ? 5000 : 15000);
  }

  close() {
    this.link.send({ t: "bye", viewer: this.viewer });
    this.stop();
    this.observer.disconnect();
    clearInterval(this.timer);
    cancelAnimationFrame(this.waiting);
  }
}

/** Show what a link sends inside an element; returns what has close(). */
function mount(element, link) {
  return new Dashboard(element, link);
}

/** A Jupyter kernel behind anywidget's model. */
function modelLink(model) {
  return {
    send: (message) => model.send(message),
    listen: (listener) => {
      const take = (header, buffers) => listener(header, buffers ?? []);
      model.on("msg:custom", take);
      return () => model.off("msg:custom", take);
    },
    interrupt: model.get("kernel_id") ? () => interruptKernel(model.get("kernel_id")) : null,
  };
}

/** Ask the Jupyter server to interrupt the kernel; it does even while a cell runs. */
async function interruptKernel(kernel) {
  const config = JSON.parse(document.getElementById("jupyter-config-data")?.textContent ?? "{}");
  const headers = {}, cookie = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)?.[1];
  if (cookie) headers["X-XSRFToken"] = cookie;
  if (config.token) headers.Authorization = `token ${config.token}`;
  await fetch(`${config.baseUrl ?? "/"}api/kernels/${kernel}/interrupt`, { method: "POST", headers });
}

const LATEST = new WeakMap(); // the latest view of each model

function render({ model, el }) {
  const dashboard = mount(el, modelLink(model));
  if (LATEST.has(model)) dashboard.mosaic.follows(LATEST.get(model).mosaic);
  LATEST.set(model, dashboard);
  return () => dashboard.close();
}

export { mount, socketLink };
export default { render };
