// Pixels: colour maps and layers. A layer keeps whole numbers (0 = not measured) and colours them by a table, so that
// map, limits and phase wrap change without the kernel.

const TAU = 2 * Math.PI;

function colourTable(name) {
  const text = COLOURS[name], count = text.length / 6, table = new Uint32Array(256);
  const anchor = (k, c) => parseInt(text.slice(6 * k + 2 * c, 6 * k + 2 * c + 2), 16);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (count - 1), k = Math.min(Math.floor(at), count - 2), f = at - k;
    const [r, g, b] = [0, 1, 2].map((c) => Math.round(anchor(k, c) * (1 - f) + anchor(k + 1, c) * f));
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r; // little endian: red comes first in memory
  }
  return table;
}

class Layer {
  constructor([low, high, bits], [height, width]) {
    Object.assign(this, { low, high, bits, height, width, top: (1 << bits) - 1 });
    this.raw = bits === 16 ? new Uint16Array(height * width) : new Uint8Array(height * width);
    this.canvas = document.createElement("canvas");
    this.canvas.width = width;
    this.canvas.height = height;
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.table = new Uint32Array(this.top + 1);
    this.changed = false; // since the limits were last looked for
  }

  decode(i) {
    return i === 0 ? NaN : this.low + ((i - 1) / (this.top - 1)) * (this.high - this.low);
  }

  value(row, column) {
    const inside = row >= 0 && column >= 0 && row < this.height && column < this.width;
    return inside ? this.decode(this.raw[row * this.width + column]) : NaN;
  }

  /** Colour by a map between two limits; a cyclic map begins again beyond them. `shift` is added to each value. */
  colour(map, low, high, cyclic, shift = 0) {
    const colours = colourTable(map), scale = 1 / Math.max(high - low, 1e-9);
    for (let i = 1; i <= this.top; i++) {
      let t = (this.decode(i) + shift - low) * scale;
      t = cyclic ? t - Math.floor(t) : Math.min(Math.max(t, 0), 1);
      this.table[i] = colours[Math.round(t * 255)];
    }
    this.repaint();
  }

  /** Tint: the less the value, the stronger the colour, up to `opacity`. */
  tint([r, g, b], full, opacity) {
    for (let i = 1; i <= this.top; i++) {
      const lack = Math.min(Math.max(1 - this.decode(i) / full, 0), 1);
      this.table[i] = (Math.round(lack * opacity * 255) << 24) | (b << 16) | (g << 8) | r;
    }
    this.repaint();
  }

  repaint() {
    const { pixels, table, raw } = this;
    for (let i = 0; i < raw.length; i++) pixels[i] = table[raw[i]];
    this.context.putImageData(this.image, 0, 0);
  }

  /** Take tiles, each (row, column, height, width), whose pixels follow one another in `values`. */
  put(places, values) {
    const { pixels, table, raw, width } = this;
    let k = 0;
    for (const [row, column, h, w] of places) {
      for (let y = row; y < row + h; y++) {
        let at = y * width + column;
        for (let x = 0; x < w; x++, at++, k++) {
          raw[at] = values[k];
          pixels[at] = table[values[k]];
        }
      }
      this.context.putImageData(this.image, 0, 0, column, row, w, h);
    }
    this.changed = true;
  }

  /** Values below which the given fractions of the measured pixels lie, from 20,000 of them; null before the first. */
  quantiles(fractions) {
    const step = Math.max(1, Math.floor(this.raw.length / 20000)), found = [];
    for (let i = 0; i < this.raw.length; i += step) if (this.raw[i]) found.push(this.raw[i]);
    if (found.length === 0) return null;
    found.sort((a, b) => a - b);
    return fractions.map((f) => this.decode(found[Math.round(f * (found.length - 1))]));
  }
}

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Numbers of a layer in a received buffer; copied where the buffer does not begin at an even byte. */
function numbers(data, bits) {
  if (bits === 8) return data;
  const aligned = data.byteOffset % 2 === 0 ? data : data.slice();
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 2);
}

async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
