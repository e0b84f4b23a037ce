// What is shown of the sample and in which colours. Lengths are those of the source (metres, or object pixels); rows go
// down, columns to the right.

const OVERLAYS = {
  none: null,
  confidence: { layer: "confidence", colour: [213, 94, 0], full: 0.8, opacity: 0.85, says: "orange: little confidence" },
  coverage: { layer: "coverage", colour: [0, 114, 178], full: 3, opacity: 0.8, says: "blue: seen by few frames" },
};
const MAPS = { phase: ["automatic", "twilight", "cividis", "viridis", "grey"], amplitude: ["grey", "cividis", "viridis", "inferno"] };
const WIDE = 4; // rad: a phase that spans more is wrapped, and shown by the cyclic map

function niceLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return [5, 2, 1].map((n) => n * power).find((length) => length <= longest) ?? power;
}

function lengthText(value, metres) {
  if (!metres) return `${+value.toPrecision(4)} px`;
  const micro = value * 1e6;
  return Math.abs(micro) < 0.1 && micro !== 0 ? `${+(micro * 1e3).toPrecision(3)} nm` : `${+micro.toPrecision(4)} µm`;
}

/** Which part of the sample is shown: its middle, and length per pixel of the screen. */
class View {
  constructor() {
    Object.assign(this, { row: 0, column: 0, scale: 1, fitted: true });
  }

  fit({ row, column, height, width }, paneWidth, paneHeight) {
    this.row = row + height / 2;
    this.column = column + width / 2;
    this.scale = Math.max(height / paneHeight, width / paneWidth) * 1.02 || 1;
  }

  zoom(factor, row, column) {
    this.fitted = false;
    this.row = row + (this.row - row) * factor;
    this.column = column + (this.column - column) * factor;
    this.scale *= factor;
  }
}

/** Colours of one quantity: map and limits, automatic until somebody chooses. */
class Colours {
  constructor(name) {
    Object.assign(this, { name, choice: MAPS[name][0], fixed: null, low: 0, high: 1, map: "grey", cyclic: false });
  }

  /** Look at a layer again; true when its colours have to change. */
  follow(layer) {
    const found = layer.quantiles([0.01, 0.5, 0.99]);
    if (found === null) return false;
    const span = found[2] - found[0], automatic = this.choice === "automatic";
    const map = automatic ? (span > WIDE ? "twilight" : "cividis") : this.choice, cyclic = map === "twilight";
    let [low, high] = this.fixed ?? [found[0] - 0.03 * span, found[2] + 0.03 * span];
    if (cyclic) [low, high] = [-Math.PI, Math.PI];
    const far = Math.abs(low - this.low) + Math.abs(high - this.high) > 0.06 * (this.high - this.low);
    if (map === this.map && !(far || (this.fixed && (low !== this.low || high !== this.high)))) return false;
    Object.assign(this, { low, high, map, cyclic });
    return true;
  }

  apply(layer, shift = 0) {
    layer.colour(this.map, this.low, this.high, this.cyclic, shift);
  }
}
