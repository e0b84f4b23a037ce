// One of the mosaics: image, tint, picture to compare with, path, stage, scale bar; and the pointer over them.

/** One canvas with its colour bar. */
class Pane {
  constructor(name, mosaic) {
    Object.assign(this, { name, mosaic, width: 0, height: 0 });
    this.canvas = h("canvas", { className: "pb-canvas", tabIndex: 0, ariaLabel: `${name} of the sample` });
    this.context = this.canvas.getContext("2d");
    this.scale = h("canvas", { className: "pb-scale", width: 256, height: 1 });
    const limit = (side) => h("input", { type: "number", step: "any", ariaLabel: `${side} limit of ${name}`, onchange: () => this.fix() });
    [this.low, this.high] = [limit("lower"), limit("upper")];
    this.choose = select(MAPS[name], `colours of ${name}`, (map) => {
      mosaic.colours[name].choice = map;
      this.refollow();
    });
    const automatic = h("button", { title: "let the limits follow the image", onclick: () => this.fix(null) }, "auto");
    this.element = h("div", { className: "pb-pane", dataset: { pane: name } },
      h("div", { className: "pb-panehead" }, h("b", {}, name === "phase" ? "phase / rad" : name), this.low, this.scale, this.high, automatic, this.choose),
      this.canvas);
    this.pointer();
    this.bar();
  }

  fix(limits = [+this.low.value, +this.high.value]) {
    this.mosaic.colours[this.name].fixed = limits && limits[0] < limits[1] ? limits : null;
    this.refollow();
  }

  refollow() {
    const layer = this.mosaic.layers[this.name], colours = this.mosaic.colours[this.name];
    if (!layer) return;
    colours.map = ""; // whatever it was, look again
    if (colours.follow(layer)) this.mosaic.recolour(this.name);
  }

  bar() {
    const { low, high, map } = this.mosaic.colours[this.name], context = this.scale.getContext("2d");
    const image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(colourTable(map || "grey"));
    context.putImageData(image, 0, 0);
    this.low.value = low.toFixed(2);
    this.high.value = high.toFixed(2);
  }

  // pointer: drag moves, the wheel zooms once the image was clicked (or with Ctrl), a double click shows all

  at(event) {
    const box = this.canvas.getBoundingClientRect(), { row, column, scale } = this.mosaic.view;
    return [row + (event.clientY - box.top - this.height / 2) * scale, column + (event.clientX - box.left - this.width / 2) * scale];
  }

  pointer() {
    const { canvas, mosaic } = this, view = mosaic.view;
    let held = null;
    canvas.onpointerdown = (event) => {
      canvas.setPointerCapture(event.pointerId);
      const x = event.clientX - canvas.getBoundingClientRect().left;
      held = { swipe: mosaic.picture && Math.abs(x - mosaic.swipe * this.width) < 12, x: event.clientX, y: event.clientY };
    };
    canvas.onpointermove = (event) => {
      if (held?.swipe) {
        mosaic.swipe = Math.min(Math.max((event.clientX - canvas.getBoundingClientRect().left) / this.width, 0), 1);
      } else if (held) {
        view.fitted = false;
        view.row -= (event.clientY - held.y) * view.scale;
        view.column -= (event.clientX - held.x) * view.scale;
        Object.assign(held, { x: event.clientX, y: event.clientY });
      }
      mosaic.say(...this.at(event));
      if (held) mosaic.changed();
    };
    canvas.onpointerup = canvas.onpointercancel = () => (held = null);
    canvas.onpointerleave = () => mosaic.say(null);
    canvas.ondblclick = () => mosaic.fit();
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas && !canvas.matches(":focus")) return;
      event.preventDefault();
      view.zoom(Math.exp(event.deltaY * 0.0015), ...this.at(event));
      mosaic.changed();
    }, { passive: false });
  }

  // drawing

  resize() {
    const extent = this.mosaic.extent(), ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = Math.round(Math.min(Math.max(width * (extent ? extent.height / (extent.width || 1) : 0.75), 180), 620));
    if (width === this.width && height === this.height) return;
    Object.assign(this, { width, height, ratio });
    this.canvas.style.height = `${height}px`;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    if (this.mosaic.view.fitted) this.mosaic.fit();
  }

  draw() {
    this.resize();
    const { context: g, mosaic, name, width, height } = this;
    if (!width) return;
    g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    const { place, picture } = mosaic, tint = OVERLAYS[mosaic.overlay];
    if (place && mosaic.layers[name]) this.put(mosaic.layers[name], place);
    if (tint && mosaic.layers[tint.layer]) this.put(mosaic.layers[tint.layer], place);
    if (picture) this.putPicture(picture);
    if (mosaic.withPath) this.drawPath();
    this.drawScale();
  }

  put(layer, { origin, pixel }) {
    const { row, column, scale } = this.mosaic.view, k = pixel / scale, g = this.context;
    g.imageSmoothingEnabled = k * this.ratio < 1;
    const left = this.width / 2 + (origin[1] - column) / scale, top = this.height / 2 + (origin[0] - row) / scale;
    g.drawImage(layer.canvas, left, top, layer.width * k, layer.height * k);
  }

  putPicture(picture) {
    const g = this.context, x = this.mosaic.swipe * this.width;
    g.save();
    g.beginPath();
    g.rect(x, 0, this.width - x, this.height);
    g.clip();
    g.clearRect(x, 0, this.width - x, this.height);
    this.put(picture.layers[this.name], picture);
    g.restore();
    this.outlined(() => {
      g.beginPath();
      g.moveTo(x, 0);
      g.lineTo(x, this.height);
      g.stroke();
    }, 2);
  }

  /** Dark below, light above: seen on any colour. */
  outlined(stroke, width) {
    const g = this.context;
    for (const [colour, more] of [["rgba(0,0,0,0.65)", 2], ["#fff", 0]]) {
      g.strokeStyle = colour;
      g.lineWidth = width + more;
      stroke();
    }
  }

  drawPath() {
    const { mosaic, context: g } = this, { path, stage, view } = mosaic;
    const screen = (row, column) => [this.width / 2 + (column - view.column) / view.scale, this.height / 2 + (row - view.row) / view.scale];
    if (path?.values.length) {
      const v = path.values, unit = mosaic.place?.pixel ?? (Math.abs(v[v.length - 2] - v[0]) / 500 || 1);
      if (mosaic.line?.unit !== unit) {
        mosaic.line = { unit, path: new Path2D() };
        for (let i = 0; i < v.length; i += 2) mosaic.line.path.lineTo((v[i + 1] - v[1]) / unit, (v[i] - v[0]) / unit);
      }
      const [x, y] = screen(v[0], v[1]), k = unit / view.scale;
      g.save();
      g.translate(x, y);
      g.scale(k, k);
      g.strokeStyle = "rgba(128,128,128,0.45)";
      g.lineWidth = 1 / k;
      g.stroke(mosaic.line.path);
      g.restore();
    }
    if (stage) {
      const [x, y] = screen(...stage);
      this.outlined(() => {
        g.beginPath();
        g.arc(x, y, 7, 0, TAU);
        for (const [a, b] of [[-12, -4], [4, 12]]) {
          g.moveTo(x + a, y);
          g.lineTo(x + b, y);
          g.moveTo(x, y + a);
          g.lineTo(x, y + b);
        }
        g.stroke();
      }, 1.5);
    }
  }

  drawScale() {
    const { context: g, mosaic } = this;
    if (!mosaic.extent()) return;
    const length = niceLength((this.width / 4) * mosaic.view.scale), long = length / mosaic.view.scale, text = lengthText(length, mosaic.metres);
    const y = this.height - 14;
    g.font = "12px system-ui, sans-serif";
    const wide = Math.max(long, g.measureText(text).width);
    g.fillStyle = "rgba(0,0,0,0.6)";
    g.fillRect(8, y - 22, wide + 16, 30);
    g.fillStyle = "#fff";
    g.fillText(text, 16, y - 7);
    g.fillRect(16, y - 1, long, 3);
  }
}
