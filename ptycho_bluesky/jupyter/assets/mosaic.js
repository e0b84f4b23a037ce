// The mosaics: phase and amplitude side by side over one view, and what people choose of it.

class Mosaic {
  constructor(changed, show) {
    Object.assign(this, { changed, show, place: null, layers: {}, picture: null, compare: "", swipe: 0.5 });
    Object.assign(this, { overlay: "none", withPath: true, path: null, stage: null });
    this.view = new View();
    this.colours = { phase: new Colours("phase"), amplitude: new Colours("amplitude") };
    this.panes = ["phase", "amplitude"].map((name) => new Pane(name, this));
    this.hover = h("div", { className: "pb-hover", ariaLive: "off" });
    this.overlaySelect = select(Object.keys(OVERLAYS), "overlay", (value) => {
      this.overlay = value;
      this.wish();
    });
    this.pathBox = h("input", { type: "checkbox", checked: true, onchange: () => this.toggle("withPath", this.pathBox.checked) });
    this.compareSelect = select(["nothing"], "compare with", (value) => this.compareWith(value === "nothing" ? "" : value));
    this.legend = h("span", { className: "pb-legend" });
    this.tools = h("div", { className: "pb-tools" },
      h("button", { title: "zoom in", ariaLabel: "zoom in", onclick: () => this.zoomAll(0.7) }, "+"),
      h("button", { title: "zoom out", ariaLabel: "zoom out", onclick: () => this.zoomAll(1 / 0.7) }, "−"),
      h("button", { title: "show all of it", onclick: () => this.fit() }, "fit"),
      h("label", {}, this.pathBox, " path"),
      h("label", {}, "overlay ", this.overlaySelect),
      h("label", {}, "compare with ", this.compareSelect), this.legend);
    this.element = h("section", { className: "pb-mosaics", ariaLabel: "live image" }, this.tools,
      h("div", { className: "pb-panes" }, ...this.panes.map((p) => p.element)), this.hover);
    this.legends();
  }

  // what arrives

  canvas(message) {
    const place = { shape: message.shape, origin: message.origin, pixel: message.pixel, run: message.run };
    if (JSON.stringify(place) === JSON.stringify(this.place)) return;
    this.place = place;
    this.ranges = message.layers;
    this.layers = {};
    if (this.view.fitted) this.fit();
    this.changed();
  }

  layer(name) {
    if (!this.layers[name]) {
      const layer = (this.layers[name] = new Layer(this.ranges[name], this.place.shape));
      const tint = Object.values(OVERLAYS).find((o) => o?.layer === name);
      if (tint) layer.tint(tint.colour, tint.full, tint.opacity);
      else this.colours[name].apply(layer);
    }
    return this.layers[name];
  }

  tiles(message, buffers) {
    if (!this.place) return;
    message.layers.forEach((name, k) => {
      const layer = this.layer(name);
      layer.put(message.places, numbers(buffers[k], layer.bits));
    });
    this.changed();
  }

  pictureCame(message, buffers) {
    if (!this.ranges || message.job !== this.compare) return;
    this.picture = { ...message, layers: {} };
    ["phase", "amplitude"].forEach((name, k) => {
      const layer = (this.picture.layers[name] = new Layer(this.ranges[name], message.shape));
      layer.put([[0, 0, ...message.shape]], numbers(buffers[k], layer.bits));
    });
    this.matchPicture();
    this.legends();
    this.changed();
  }

  pathCame(message, values) {
    this.path = { step: message.step, values };
    this.line = null;
    if (this.view.fitted) this.fit();
    this.changed();
  }

  news(news) {
    this.stage = news.stage;
    const ids = ["nothing", ...news.jobs.filter((j) => j.picture).map((j) => j.job_id)];
    refill(this.compareSelect, ids, this.compare || "nothing");
    this.changed();
  }

  /** Once a second: limits that follow the image. */
  follow() {
    for (const name of ["phase", "amplitude"]) {
      const layer = this.layers[name];
      if (!layer?.changed) continue;
      layer.changed = false;
      if (this.colours[name].follow(layer)) this.recolour(name);
    }
  }

  recolour(name) {
    if (this.layers[name]) this.colours[name].apply(this.layers[name]);
    this.matchPicture();
    this.panes.forEach((pane) => pane.bar());
    this.changed();
  }

  /** A phase is free up to a constant: the picture's is moved so that the medians agree. */
  matchPicture() {
    if (!this.picture) return;
    for (const [name, layer] of Object.entries(this.picture.layers)) {
      const ours = this.layers[name]?.quantiles([0.5]), theirs = layer.quantiles([0.5]);
      this.colours[name].apply(layer, name === "phase" && ours && theirs ? ours[0] - theirs[0] : 0);
    }
  }

  // what people choose

  /** Take over the choices of another, as when Jupyter draws the output anew. */
  follows(other) {
    const { overlay, withPath, swipe, compare } = other;
    Object.assign(this, { overlay, withPath, swipe, compare });
    Object.assign(this.view, other.view);
    this.overlaySelect.value = overlay;
    this.pathBox.checked = withPath;
    for (const pane of this.panes) {
      const { choice, fixed } = other.colours[pane.name];
      Object.assign(this.colours[pane.name], { choice, fixed });
      pane.choose.value = choice;
    }
    this.wish();
  }

  toggle(key, value) {
    this[key] = value;
    this.changed();
  }

  compareWith(job) {
    Object.assign(this, { compare: job, picture: null });
    this.compareSelect.value = job || "nothing";
    this.wish();
  }

  wish() {
    const tint = OVERLAYS[this.overlay];
    this.show({ layers: ["phase", "amplitude", ...(tint ? [tint.layer] : [])], job: this.compare });
    this.legends();
    this.changed();
  }

  legends() {
    const tint = OVERLAYS[this.overlay];
    const kind = this.picture ? `left: live; right: ${this.picture.final ? "result" : "half way"}, phase offset matched; drag the line` : "";
    this.legend.textContent = ["hatched: not measured", tint?.says, kind].filter(Boolean).join(" · ");
  }

  zoomAll(factor) {
    this.view.zoom(factor, this.view.row, this.view.column);
    this.changed();
  }

  fit() {
    this.view.fitted = true;
    const extent = this.extent(), { width, height } = this.panes[0];
    if (extent && width) this.view.fit(extent, width, height);
    this.changed();
  }

  /** What there is to see: the image, before it the path. */
  extent() {
    if (this.place) {
      const { shape, origin, pixel } = this.place;
      return { row: origin[0], column: origin[1], height: shape[0] * pixel, width: shape[1] * pixel };
    }
    if (!this.path?.values.length) return null;
    const v = this.path.values, low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < v.length; i++) {
      low[i % 2] = Math.min(low[i % 2], v[i]);
      high[i % 2] = Math.max(high[i % 2], v[i]);
    }
    return { row: low[0], column: low[1], height: high[0] - low[0], width: high[1] - low[1] };
  }

  get metres() {
    return (this.place?.pixel ?? 1e-9) < 1e-3;
  }

  say(row, column) {
    if (!this.place || row === null) {
      this.hover.textContent = "";
      return;
    }
    const { origin, pixel } = this.place, y = Math.floor((row - origin[0]) / pixel), x = Math.floor((column - origin[1]) / pixel);
    const parts = [`row ${lengthText(row, this.metres)}, column ${lengthText(column, this.metres)}`];
    for (const [name, unit] of [["phase", " rad"], ["amplitude", ""], ["confidence", ""], ["coverage", ""]]) {
      const value = this.layers[name]?.value(y, x);
      if (value !== undefined) parts.push(`${name} ${Number.isNaN(value) ? "not measured" : value.toFixed(3) + unit}`);
    }
    this.hover.textContent = parts.join(" · ");
  }

  draw() {
    this.panes.forEach((pane) => pane.draw());
  }
}
