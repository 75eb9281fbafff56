"use strict";
(() => {
const MAGMA = ["000004", "0a0822", "1d1147", "36106b", "51127c", "6a1c81", "832681", "9c2e7f", "b73779", "d0416f", "e75263", "f56b5c", "fc8961", "fea772", "fec488", "fde2a3", "fcfdbf"];
const CIVIDIS = ["00224e", "1a386f", "434e6c", "61656f", "7d7c78", "9b9476", "bcae6c", "dec958", "fee838"];
const EXACT = 0, COUNTS = 1, TRACES = 2, SMOOTHINGS = [0, 10, 21, 50, 100];
const by = id => document.getElementById(id);
const state = { data: null, neuron: 0, stim: 0, smooth: 21, blocks: new Map(), repeats: null, pair: null, own: null, printing: false, drawing: 0 };

// Unpacking ---------------------------------------------------------------------------------------------------------

async function unpack(id) {
  const place = by("block-" + id);
  if (!place) return null;
  const text = atob(place.textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function block(id, make) {
  if (state.blocks.has(id)) return state.blocks.get(id);
  const bytes = await unpack(id), made = bytes && make(bytes);
  if (state.blocks.size > 60) state.blocks.delete(state.blocks.keys().next().value);
  state.blocks.set(id, made);
  return made;
}

function responses(bytes) {
  let at = 0;
  const next = () => {
    let value = 0, scale = 1, byte;
    do { byte = bytes[at++]; value += (byte & 127) * scale; scale *= 128; } while (byte & 128);
    return value;
  };
  const unfold = v => v % 2 ? -(v + 1) / 2 : v / 2;
  const pairs = Array.from({ length: next() }, () => ({}));
  let stim = 0;
  for (const p of pairs) p.stim = stim += next();
  for (const p of pairs) p.kind = next();
  for (const p of pairs) p.repeats = next();
  for (const p of pairs) p.gaps = Array.from({ length: next() });
  for (const p of pairs) p.gaps = p.gaps.map(() => [next(), next(), next()]);
  for (const p of pairs) {
    p.windows = [];
    const last = [0, 0];
    for (let r = 0; p.kind === EXACT && r < p.repeats; r++) p.windows.push([0, 1].map(c => {
      const v = next();
      return v ? last[c] += unfold(v - 1) : null;
    }));
  }
  for (const p of pairs) p.rows = Array.from({ length: p.repeats }, () => new Float64Array(next()));
  for (const p of pairs) for (const row of p.rows) {
    let value = 0;
    for (let i = 0; i < row.length; i++) {
      const step = next();
      row[i] = value += i === 0 || p.kind === TRACES ? unfold(step) : step;
    }
  }
  for (const p of pairs) p.counts = p.rows.map(row => p.kind === COUNTS ? Array.from(row, () => next() + 1) : null);
  return new Map(pairs.map(p => [p.stim, p]));
}

// What there is of a pair, in s, spikes/s or mV ----------------------------------------------------------------------

function described(raw, stim, neuron) {
  const d = state.data, dt = d.dt, unit = dt / d.units, start = d.start, bins = stim.bins;
  const first = Math.round(start / dt), pair = { kind: raw.kind, repeats: raw.repeats, unit: "spikes/s", times: null, traces: null, gone: [] };
  const sum = new Float64Array(bins), seen = new Float64Array(bins).fill(raw.repeats);
  const missing = raw.gaps.map(([row, a, length]) => [row, a, a + length]);
  for (const [, a, b] of missing) for (let i = a; i < b; i++) seen[i]--;
  let low = start, high = start + bins * dt;
  pair.spikes = 0;
  if (raw.kind === EXACT) {
    pair.times = raw.rows.map(row => row.map(t => t * unit));
    for (const row of raw.rows) for (const t of row) {
      const bin = Math.floor(t / d.units) - first;
      if (bin >= 0 && bin < bins) sum[bin]++;
      pair.spikes++;
    }
    // A bin that a repeat did not observe can hold spikes of it all the same, as the last one before the end does
    for (const [row, a, b] of missing) for (const t of raw.rows[row]) {
      const bin = Math.floor(t / d.units) - first;
      if (bin >= a && bin < b) sum[bin]--;
    }
    const windows = raw.windows.map(w => w.map(v => v === null ? null : v * unit));
    windows.forEach(([a, b], i) => {
      const row = pair.times[i];
      if (a !== null) low = Math.min(low, a);
      if (b !== null) high = Math.max(high, b);
      if (row.length) { low = Math.min(low, row[0]); high = Math.max(high, row[row.length - 1]); }
    });
    windows.forEach(([a, b], i) => {
      if (a !== null && a - low > 1e-9) pair.gone.push([i, low, a]);
      if (b !== null && high - b > 1e-9) pair.gone.push([i, b, high]);
    });
  } else {
    pair.gone = missing.map(([row, a, b]) => [row, start + a * dt, start + b * dt]);
    if (raw.kind === COUNTS) {
      pair.times = raw.rows.map((row, r) => row.map((bin, i) => { sum[bin] += raw.counts[r][i]; pair.spikes += raw.counts[r][i]; return start + (bin + .5) * dt; }));
    } else {
      const step = neuron.mV ? d.mv : d.other;
      pair.unit = neuron.mV ? "mV" : "spikes/s";
      pair.traces = raw.rows.map(row => Float64Array.from(row, v => v * step));
      for (const [row, a, b] of missing) pair.traces[row].fill(NaN, a, b);
      for (const trace of pair.traces) trace.forEach((v, i) => { if (!Number.isNaN(v)) sum[i] += v; });
    }
  }
  const scale = pair.unit === "mV" ? 1 : 1 / dt;
  pair.mean = Array.from(sum, (v, i) => seen[i] > 0 ? v / seen[i] * scale : NaN);
  pair.span = [low, high];
  return pair;
}

function kernel(dtMs, width) {
  if (width <= 2 * dtMs) return [1];
  const half = Math.ceil(width / 2 / dtMs) - 1, out = [];
  for (let i = -half; i <= half; i++) out.push(Math.cos(Math.PI * i * dtMs / width) ** 2);
  const sum = out.reduce((a, b) => a + b);
  return out.map(v => v / sum);
}

function smoothed(values, weights) {
  const half = (weights.length - 1) / 2;
  if (!half) return values;
  return values.map((v, i) => {
    if (Number.isNaN(v)) return NaN;
    let sum = 0, weight = 0;
    for (let k = Math.max(-half, -i); k <= half && i + k < values.length; k++) {
      const other = values[i + k];
      if (!Number.isNaN(other)) { sum += other * weights[k + half]; weight += weights[k + half]; }
    }
    return sum / weight;
  });
}

// Drawing ------------------------------------------------------------------------------------------------------------

function ramp(stops) {
  const parsed = stops.map(s => [0, 2, 4].map(i => parseInt(s.slice(i, i + 2), 16)));
  return f => {
    const x = Math.min(Math.max(f, 0), 1) * (parsed.length - 1), i = Math.min(Math.floor(x), parsed.length - 2), t = x - i;
    return parsed[i].map((v, c) => Math.round(v + (parsed[i + 1][c] - v) * t));
  };
}
const magma = ramp(MAGMA), cividis = ramp(CIVIDIS);

function dark() { return !state.printing && matchMedia("(prefers-color-scheme: dark)").matches; }

function colours() {
  if (state.printing) return { ink: "#000", faint: "#444", line: "#bbb", mark: "#b34b00", missing: "#c9c9c6", ground: "#fff", panel: "#fff" };
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue("--" + name).trim();
  return { ink: of("ink"), faint: of("faint"), line: of("line"), mark: of("mark"), missing: of("missing"), ground: of("ground"), panel: of("panel") };
}

function brush(canvas, width, height) {
  const ratio = state.printing ? 3 : window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = '12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  pen.textBaseline = "middle";
  return pen;
}

function widthOf(canvas) { return state.printing ? 680 : Math.max(260, canvas.parentElement.clientWidth); }

function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => (high - low) / s <= most) || 10 * power, out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
  return out;
}

function plain(v) { return String(Number(v.toPrecision(6))).replace(/^-/, "\u2212"); }

function frame(pen, c, box) {
  pen.strokeStyle = c.ink; pen.lineWidth = 1;
  pen.beginPath(); pen.moveTo(box.x + .5, box.y); pen.lineTo(box.x + .5, box.y + box.h + .5); pen.lineTo(box.x + box.w, box.y + box.h + .5); pen.stroke();
}

function yAxis(pen, c, box, values, place, labels, title) {
  pen.strokeStyle = c.ink; pen.fillStyle = c.ink; pen.textAlign = "right"; pen.lineWidth = 1;
  values.forEach((v, i) => {
    const y = place(v);
    pen.beginPath(); pen.moveTo(box.x - 4, y); pen.lineTo(box.x, y); pen.stroke();
    pen.fillText(labels[i], box.x - 7, y);
  });
  upright(pen, c, title, 12, box.y + box.h / 2, box.h);
}

function upright(pen, c, text, x, y, room, turn = -1) {
  pen.save(); pen.translate(x, y); pen.rotate(turn * Math.PI / 2); pen.textAlign = "center"; pen.fillStyle = c.ink;
  pen.fillText(text, 0, 0, room + 24); pen.restore();
}

function drawPair() {
  const { pair, level } = state.shown, d = state.data, stim = d.stims[state.stim], c = colours();
  const canvas = by("pair"), width = widthOf(canvas), narrow = width < 560;
  const left = 62, right = level ? (narrow ? 52 : 74) : 14, w = width - left - right;
  const rows = pair ? pair.repeats : 0;
  const top = { x: left, y: 8, w, h: 150 };
  const middle = { x: left, y: top.y + top.h + 14, w, h: pair && pair.traces ? 150 : Math.min(260, Math.max(44, rows * 9)) };
  const bottom = { x: left, y: middle.y + middle.h + 26, w, h: 120 };
  const height = bottom.y + bottom.h + 44, pen = brush(canvas, width, height);
  const [low, high] = pair ? pair.span : [d.start, d.start + stim.bins * d.dt];
  const px = t => left + (t - low) / (high - low || 1) * w;
  pen.fillStyle = c.ground; pen.fillRect(0, 0, width, height);
  drawLevel(pen, c, top, level, stim, px, narrow, width);
  if (pair) {
    if (pair.traces) drawTraces(pen, c, middle, pair, px); else drawRaster(pen, c, middle, pair, px);
    drawMean(pen, c, bottom, pair, px);
  } else {
    pen.fillStyle = c.faint; pen.textAlign = "center";
    pen.fillText(state.shown.why, left + w / 2, middle.y + middle.h / 2, w);
  }
  pen.setLineDash([4, 3]); pen.strokeStyle = c.mark; pen.lineWidth = 1;
  const marks = stim.onset === null ? [] : stim.lasts === null ? [stim.onset] : [stim.onset, stim.onset + stim.lasts];
  for (const t of marks) if (pair && t > low + 1e-9 && t < high - 1e-9) for (const box of [middle, bottom]) {
    pen.beginPath(); pen.moveTo(px(t), box.y); pen.lineTo(px(t), box.y + box.h); pen.stroke();
  }
  pen.setLineDash([]);
  pen.fillStyle = c.ink; pen.strokeStyle = c.ink; pen.textAlign = "center";
  for (const t of ticks(low, high, Math.max(2, Math.floor(w / 80)))) {
    pen.beginPath(); pen.moveTo(px(t), bottom.y + bottom.h); pen.lineTo(px(t), bottom.y + bottom.h + 4); pen.stroke();
    pen.fillText(plain(t), px(t), bottom.y + bottom.h + 14);
  }
  pen.fillText("time from stimulus onset (s)", left + w / 2, bottom.y + bottom.h + 33, w);
}

function drawLevel(pen, c, box, level, stim, px, narrow, width) {
  const d = state.data, bands = d.axis.bands;
  if (!level) {
    pen.fillStyle = c.faint; pen.textAlign = "center";
    pen.fillText(stim.span ? "spectrogram left out of this page" : "no spectrogram", box.x + box.w / 2, box.y + box.h / 2, box.w);
    frame(pen, c, box);
    return;
  }
  const image = new ImageData(stim.bins, bands), table = Array.from({ length: 255 }, (_, i) => magma(i / 254));
  for (let f = 0; f < bands; f++) for (let t = 0; t < stim.bins; t++) {
    const v = level[f * stim.bins + t], at = ((bands - 1 - f) * stim.bins + t) * 4;
    if (v < 255) { image.data.set(table[v], at); image.data[at + 3] = 255; }
  }
  const small = document.createElement("canvas");
  small.width = stim.bins; small.height = bands;
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  const from = px(d.start), to = px(d.start + stim.bins * d.dt);
  pen.drawImage(small, from, box.y, to - from, box.h);
  frame(pen, c, box);
  const place = band => box.y + box.h - (band + .5) / bands * box.h;
  yAxis(pen, c, box, d.axis.places, place, d.axis.labels, "frequency (kHz)");
  const x = box.x + box.w + 8, [low, high, below, root] = stim.span;
  for (let i = 0; i < box.h; i++) { pen.fillStyle = `rgb(${magma(1 - i / box.h)})`; pen.fillRect(x, box.y + i, 9, 1.5); }
  pen.fillStyle = c.ink; pen.textAlign = "left";
  for (const v of high > low ? ticks(low, high, 4) : [low]) {
    const part = high > low ? ((v - low) / (high - low)) ** (1 / root) : .5;
    pen.fillText((below && v === low ? "\u2264" : "") + plain(v), x + 13, Math.min(box.y + box.h - 6, Math.max(box.y + 6, box.y + box.h - part * box.h)), width - x - 14);
  }
  if (!narrow) upright(pen, c, d.axis.level, width - 7, box.y + box.h / 2, box.h, 1);
}

function drawRaster(pen, c, box, pair, px) {
  const row = box.h / pair.repeats;
  pen.fillStyle = c.missing;
  for (const [r, a, b] of pair.gone) pen.fillRect(px(a), box.y + r * row, px(b) - px(a), row);
  pen.strokeStyle = c.ink; pen.lineWidth = pair.spikes > 3000 ? .7 : 1;
  pen.beginPath();
  pair.times.forEach((times, r) => {
    const y = box.y + r * row + row * .1;
    for (const t of times) { const x = px(t); pen.moveTo(x, y); pen.lineTo(x, y + row * .8); }
  });
  pen.stroke();
  frame(pen, c, box);
  const every = Math.ceil(pair.repeats / 5), shown = [];
  for (let r = every === 1 ? 1 : every; r <= pair.repeats; r += every) shown.push(r);
  yAxis(pen, c, box, shown, r => box.y + (r - .5) * row, shown.map(String), "repeat");
  if (pair.kind === COUNTS) {
    pen.fillStyle = c.faint; pen.textAlign = "right"; pen.fillText("no exact times: one tick a bin", box.x + box.w, box.y + box.h + 11, box.w);
  }
}

function levels(values, floor) {
  let low = Infinity, high = -Infinity;
  for (const list of values) for (const v of list) if (!Number.isNaN(v)) { if (v < low) low = v; if (v > high) high = v; }
  if (low > high) { low = 0; high = 1; }
  if (floor) low = Math.min(0, low);
  if (high - low < 1e-9) high = low + 1;
  const room = (high - low) * .05;
  return [floor && low === 0 ? 0 : low - room, high + room];
}

function line(pen, values, x, y) {
  pen.beginPath();
  let on = false;
  values.forEach((v, i) => {
    if (Number.isNaN(v)) { on = false; return; }
    if (on) pen.lineTo(x(i), y(v)); else pen.moveTo(x(i), y(v));
    on = true;
  });
  pen.stroke();
}

function drawTraces(pen, c, box, pair, px) {
  const d = state.data, [low, high] = levels(pair.traces, false), y = v => box.y + box.h - (v - low) / (high - low) * box.h;
  pen.strokeStyle = c.ink; pen.lineWidth = 1; pen.globalAlpha = Math.max(.25, Math.min(1, 1.5 / pair.traces.length));
  for (const trace of pair.traces) line(pen, trace, i => px(d.start + (i + .5) * d.dt), y);
  pen.globalAlpha = 1;
  frame(pen, c, box);
  const shown = ticks(low, high, 4);
  yAxis(pen, c, box, shown, y, shown.map(plain), pair.unit === "mV" ? "each repeat (mV)" : "each repeat");
}

function drawMean(pen, c, box, pair, px) {
  const d = state.data, dtMs = d.dt * 1000, values = smoothed(pair.mean, kernel(dtMs, state.smooth)), trace = pair.unit === "mV";
  const [low, high] = levels([values], !trace), y = v => box.y + box.h - (v - low) / (high - low) * box.h;
  pen.strokeStyle = c.ink; pen.lineWidth = 1.2;
  if (trace) line(pen, values, i => px(d.start + (i + .5) * d.dt), y);
  else {
    pen.beginPath();
    values.forEach((v, i) => {
      if (Number.isNaN(v)) return;
      const a = px(d.start + i * d.dt), b = px(d.start + (i + 1) * d.dt);
      if (i === 0 || Number.isNaN(values[i - 1])) pen.moveTo(a, y(v)); else pen.lineTo(a, y(v));
      pen.lineTo(b, y(v));
    });
    pen.stroke();
  }
  frame(pen, c, box);
  const shown = ticks(low, high, 4);
  yAxis(pen, c, box, shown, y, shown.map(plain), trace ? "mean (mV)" : "rate (spikes/s)");
  pen.fillStyle = c.faint; pen.textAlign = "left";
  pen.fillText(how(), box.x + 4, box.y - 8, box.w);
}

function how() {
  const dtMs = state.data.dt * 1000;
  if (!state.smooth) return "not smoothed";
  return state.smooth <= 2 * dtMs ? `no smoothing at ${plain(dtMs)} ms bins` : `${state.smooth} ms Hann`;
}

// The map of repeats ---------------------------------------------------------------------------------------------------

function drawMap(anew) {
  const d = state.data, N = d.neurons.length, S = d.stims.length, c = colours(), canvas = by("map"), width = widthOf(canvas);
  const above = d.coverage.above.length * 14, beside = d.coverage.beside.length * 14, left = 62, w = Math.max(60, width - left - beside - 12);
  const h = Math.min(state.printing ? 420 : 560, Math.max(60, N * 8)), box = { x: left, y: above + 6, w, h };
  const pen = brush(canvas, width, box.y + h + 44), night = dark();
  if (!anew && state.base && state.base.width === canvas.width && state.base.height === canvas.height) {
    pen.save(); pen.setTransform(1, 0, 0, 1, 0, 0); pen.drawImage(state.base, 0, 0); pen.restore();
    drawChosen(pen, c, state.map);
    return;
  }
  pen.fillStyle = c.ground; pen.fillRect(0, 0, width, box.y + h + 44);
  const small = document.createElement("canvas"), image = new ImageData(S, N), most = Math.max(1, Math.min(255, d.coverage.most));
  small.width = S; small.height = N;
  state.repeats.forEach((r, i) => {
    if (!r) return;
    image.data.set(cividis(night ? r / most : 1 - r / most), i * 4);
    image.data[i * 4 + 3] = 255;
  });
  small.getContext("2d").putImageData(image, 0, 0);
  pen.fillStyle = c.panel; pen.fillRect(box.x, box.y, w, h);
  // Rows that share a pixel are averaged, columns never: a stimulus keeps its edges
  let lines = small;
  if (N > h * 1.5) {
    const rows = Math.round(h), mean = new ImageData(S, rows);
    for (let y = 0; y < rows; y++) for (let x = 0; x < S; x++) {
      const sum = [0, 0, 0, 0], from = Math.floor(y * N / rows), to = Math.floor((y + 1) * N / rows);
      for (let n = from; n < to; n++) {
        const at = (n * S + x) * 4, alpha = image.data[at + 3];
        for (let i = 0; i < 3; i++) sum[i] += image.data[at + i] * alpha;
        sum[3] += alpha;
      }
      if (sum[3]) mean.data.set([sum[0] / sum[3], sum[1] / sum[3], sum[2] / sum[3], sum[3] / (to - from)], (y * S + x) * 4);
    }
    lines = document.createElement("canvas");
    lines.width = S; lines.height = rows;
    lines.getContext("2d").putImageData(mean, 0, 0);
  }
  pen.imageSmoothingEnabled = false;
  pen.drawImage(lines, box.x, box.y, w, h);
  const legend = by("map-legend");
  legend.replaceChildren();
  const scale = document.createElement("span");
  scale.textContent = "repeats: ";
  legend.append(scale);
  const steps = [...new Set([1, Math.round((most + 1) / 2), most])];
  for (const r of steps) legend.append(key(`rgb(${cividis(night ? r / most : 1 - r / most)})`, r === 255 ? "255 or more" : String(r)));
  legend.append(key(c.panel, "never presented"));
  d.coverage.above.forEach((strip, k) => drawStrip(pen, c, strip, k, legend, g => [box.x + g[1] / S * w, 2 + k * 14, g[2] / S * w, 11], box, false));
  d.coverage.beside.forEach((strip, k) => drawStrip(pen, c, strip, k, legend, g => [box.x + w + 4 + k * 14, box.y + g[1] / N * h, 11, g[2] / N * h], box, true));
  frame(pen, c, box);
  // Positions in the cube, from 0 on as the command line and Python count
  const whole = (n, most) => n === 1 ? [0] : ticks(0, n - 1, most).filter(Number.isInteger);
  const rowTicks = whole(N, 6), columnTicks = whole(S, Math.max(2, Math.floor(w / 70)));
  yAxis(pen, c, box, rowTicks, r => box.y + (r + .5) / N * h, rowTicks.map(String), `neuron (${N.toLocaleString("en")})`);
  pen.textAlign = "center"; pen.fillStyle = c.ink;
  for (const s of columnTicks) pen.fillText(String(s), box.x + (s + .5) / S * w, box.y + h + 13);
  pen.fillText(`stimulus (${S.toLocaleString("en")})`, box.x + w / 2, box.y + h + 32, w);
  state.map = { box, N, S };
  state.base = document.createElement("canvas");
  state.base.width = canvas.width; state.base.height = canvas.height;
  state.base.getContext("2d").drawImage(canvas, 0, 0);
  drawChosen(pen, c, state.map);
}

function drawChosen(pen, c, { box, N, S }) {
  pen.strokeStyle = c.mark; pen.lineWidth = 2;
  pen.strokeRect(box.x + state.stim / S * box.w - 1, box.y + state.neuron / N * box.h - 1, Math.max(3, box.w / S + 2), Math.max(3, box.h / N + 2));
}

function drawStrip(pen, c, strip, k, legend, at, box, upright) {
  const names = [...new Set(strip.groups.map(g => g[0]))];
  const title = document.createElement("b");
  title.textContent = strip.label + ":";
  legend.append(title);
  const colour = name => dark() && strip.colours[name] === "#000000" ? "#ffffff" : strip.colours[name];
  for (const name of names) legend.append(key(colour(name), name));
  for (const g of strip.groups) { pen.fillStyle = colour(g[0]); pen.fillRect(...at(g)); }
  pen.save(); pen.font = pen.font.replace("12px", "10px"); pen.fillStyle = c.faint; pen.textAlign = "right";
  if (upright) {
    pen.translate(box.x + box.w + 9.5 + k * 14, box.y + box.h + 5); pen.rotate(-Math.PI / 2);
    pen.fillText(strip.label, 0, 0, 38);
  } else pen.fillText(strip.label, box.x - 5, 8 + k * 14, box.x - 6);
  pen.restore();
}

function key(colour, text) {
  const span = document.createElement("span"), box = document.createElement("i");
  box.style.background = colour;
  span.append(box, text);
  return span;
}

function onMap(event) {
  const { box, N, S } = state.map, rect = by("map").getBoundingClientRect();
  const s = Math.floor((event.clientX - rect.left - box.x) / box.w * S), n = Math.floor((event.clientY - rect.top - box.y) / box.h * N);
  return s >= 0 && s < S && n >= 0 && n < N ? [n, s] : null;
}

// Quality ----------------------------------------------------------------------------------------------------------------

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  if (text !== undefined) node.textContent = text;
  return node;
}

function drawQuality() {
  const q = state.data.quality, night = dark();
  const colour = i => { const own = i >= 7 - 1 && q.names.length > 6 ? "#999999" : q.colours[i]; return night && own === "#000000" ? "#ffffff" : own; };
  histogram(by("snr"), q.snr, "SNR of one repeat", true, colour);
  histogram(by("ccmax"), q.ccmax, "CCmax", false, colour);
  by("quality-note").textContent = q.note;
  const legend = by("quality-legend");
  legend.replaceChildren();
  if (q.names.length > 1) {
    const title = document.createElement("b");
    title.textContent = q.label + ":";
    legend.append(title, ...q.names.map(([name, n], i) => key(colour(i), `${name} (${n.toLocaleString("en")})`)));
  }
}

function histogram(place, shown, title, log, colour) {
  const W = 460, H = 220, left = 58, bottom = 40, w = W - left - 12, h = H - bottom - 10;
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Distribution of ${title} over the neurons` });
  const e = shown.edges.map(v => log ? Math.log10(v) : v), x = v => left + (v - e[0]) / (e[e.length - 1] - e[0]) * w;
  const totals = e.slice(1).map((_, i) => shown.counts.reduce((sum, row) => sum + row[i], 0)), most = Math.max(1, ...totals);
  const y = v => 10 + h - v / (most * 1.05) * h;
  if (!totals.some(v => v)) picture.append(svg("text", { x: left + w / 2, y: 10 + h / 2, "text-anchor": "middle" }, state.data.quality.empty));
  e.slice(1).forEach((_, i) => {
    let floor = 0;
    shown.counts.forEach((row, g) => {
      if (!row[i]) return;
      const bar = svg("rect", { x: x(e[i]) + .5, y: y(floor + row[i]), width: Math.max(.5, x(e[i + 1]) - x(e[i]) - 1), height: y(floor) - y(floor + row[i]), fill: colour(g) });
      bar.append(svg("title", {}, `${plain(shown.edges[i])} to ${plain(shown.edges[i + 1])}: ${row[i]}`));
      picture.append(bar);
      floor += row[i];
    });
  });
  picture.append(svg("path", { class: "axis", d: `M${left},10V${10 + h}H${left + w}` }));
  for (const v of ticks(0, most, 4).filter(Number.isInteger)) {
    picture.append(svg("path", { class: "axis", d: `M${left - 4},${y(v)}H${left}` }), svg("text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, String(v)));
  }
  const places = log ? [] : [0, .25, .5, .75, 1];
  if (log) for (let p = Math.ceil(e[0] - 1e-6); p <= e[e.length - 1]; p++) places.push(p);
  for (const p of places) picture.append(svg("path", { class: "axis", d: `M${x(p)},${10 + h}v4` }),
    svg("text", { x: x(p), y: 10 + h + 17, "text-anchor": "middle" }, (log && p <= e[0] + 1e-6 ? "<" : "") + plain(log ? 10 ** p : p)));
  picture.append(svg("text", { x: left + w / 2, y: H - 5, "text-anchor": "middle" }, title));
  picture.append(svg("text", { transform: `translate(11,${10 + h / 2}) rotate(-90)`, "text-anchor": "middle" }, "neurons"));
  place.replaceChildren(picture);
}

// Findings -----------------------------------------------------------------------------------------------------------------

const AT_ONCE = 500;

function listFindings() {
  const f = state.data.findings, words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean), list = by("findings-list");
  const fits = (kind, each) => { const text = [kind.severity, ...each].join(" ").toLowerCase(); return words.every(w => text.includes(w)); };
  list.replaceChildren();
  let found = 0, kinds = 0;
  for (const kind of f.kinds) {
    const some = words.length ? kind.each.filter(each => fits(kind, each)) : kind.each;
    const number = words.length ? some.length : kind.count;
    if (!number) continue;
    found += number;
    kinds++;
    const details = document.createElement("details"), summary = document.createElement("summary"), severity = document.createElement("span");
    severity.className = "severity " + kind.severity;
    severity.textContent = { info: "note" }[kind.severity] || kind.severity;
    summary.append(severity, " ", (number > 1 ? `${number.toLocaleString("en")} times: ` : "") + `${kind.what}; ${kind.consequence}`);
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.querySelector("ul")) return;
      const items = document.createElement("ul"), rest = number - Math.min(AT_ONCE, some.length);
      for (const [place, what, consequence] of some.slice(0, AT_ONCE)) {
        const item = document.createElement("li");
        item.textContent = (place ? place + ": " : "") + `${what}; ${consequence}`;
        items.append(item);
      }
      if (rest > 0) { const item = document.createElement("li"); item.textContent = `and ${rest.toLocaleString("en")} more: search for them, or strfcube inspect STORE --findings`; items.append(item); }
      details.append(items);
    });
    list.append(details);
  }
  const cut = f.listed < f.total ? ` (the first ${f.listed.toLocaleString("en")} are searched)` : "";
  by("findings-count").textContent = !f.total ? "None." : `${found.toLocaleString("en")} of ${f.total.toLocaleString("en")} ${f.total === 1 ? "finding" : "findings"}, of ${kinds} ${kinds === 1 ? "kind" : "kinds"}${cut}`;
  by("search").closest(".controls").hidden = !f.total;
}

// Choosing a pair ------------------------------------------------------------------------------------------------------------

// Whether the page has the response: one that is cut to fit leaves some out
function holds(own, s) { return Boolean(own) && own.has(s); }

function has(n, s) { return state.repeats[n * state.data.stims.length + s] > 0; }

async function show(n, s) {
  const d = state.data, began = performance.now(), turn = ++state.drawing;
  const [own, level] = await Promise.all([block("n" + n, responses), block("s" + s, bytes => bytes)]);
  if (turn !== state.drawing) return;
  state.neuron = n; state.stim = s; state.own = own;
  const raw = own && own.get(s), neuron = d.neurons[n], stim = d.stims[s];
  const why = has(n, s) ? "this response is left out of the page, which was cut to fit: it is in the cube" : "this stimulus was never presented to this neuron, or every trial was rejected";
  state.shown = { pair: raw ? described(raw, stim, neuron) : null, level, why };
  by("pair-title").textContent = `${neuron.title} \u00d7 ${stim.title}`;
  const pair = state.shown.pair, words = [];
  if (pair) {
    words.push(pair.repeats === 1 ? "1 repeat" : `${pair.repeats} repeats`);
    if (!pair.traces) words.push(`${pair.spikes.toLocaleString("en")} ${pair.spikes === 1 ? "spike" : "spikes"}`);
    words.push(pair.kind === EXACT ? "exact spike times" : pair.kind === COUNTS ? `bins of ${plain(d.dt * 1000)} ms` : pair.unit === "mV" ? "membrane potential" : "levels");
  } else words.push(why);
  for (const [name, value] of [["SNR", neuron.snr], ["CCmax", neuron.ccmax]]) words.push(`${name} of the neuron ${value === null ? "not known" : plain(Number(value.toPrecision(3)))}`);
  words.push(`neuron ${n} and stimulus ${s} of the cube`);
  by("pair-text").textContent = words.join(", ");
  by("neuron").value = String(n);
  fillStims();
  by("stim").value = String(s);
  drawPair();
  drawMap(false);
  try { history.replaceState(null, "", `#neuron=${encodeURIComponent(neuron.label)}&stim=${encodeURIComponent(stim.label)}`); } catch { /* not from a file, in some browsers */ }
  state.took = performance.now() - began;
  document.body.dataset.shown = `${n},${s}`;
  ahead(n, s);
}

// What the arrow keys lead to is unpacked while nobody waits
function ahead(n, s) {
  const later = window.requestIdleCallback || (work => setTimeout(work, 50));
  for (const step of [1, -1]) later(async () => { await block("n" + (n + step), responses); await block("s" + (s + step), bytes => bytes); });
}

function fillStims() {
  const select = by("stim");
  for (const option of select.options) {
    const s = Number(option.value), there = has(state.neuron, s);
    const text = state.data.stims[s].title + (!there ? " (not presented)" : holds(state.own, s) ? "" : " (left out)");
    if (option.textContent !== text) option.textContent = text;
  }
}

function fillNeurons() {
  const words = by("find").value.toLowerCase().split(/\s+/).filter(Boolean), select = by("neuron");
  select.replaceChildren(...state.data.neurons.flatMap((neuron, n) => words.every(w => neuron.title.toLowerCase().includes(w)) ? [new Option(neuron.title, String(n))] : []));
  select.disabled = !select.options.length;
  if (!select.options.length) select.append(new Option("none is called so", ""));
}

function moved(axis, by_) {
  const d = state.data;
  if (axis === "stim") {
    for (let s = state.stim + by_; s >= 0 && s < d.stims.length; s += by_) if (holds(state.own, s)) return show(state.neuron, s);
    return null;
  }
  const listed = [...by("neuron").options].map(o => Number(o.value)), at = listed.indexOf(state.neuron);
  const n = at < 0 ? listed[0] : listed[at + by_];
  if (by("neuron").disabled || n === undefined) return null;
  return showNear(n);
}

// Another neuron with the same stimulus, or with the nearest of which the page has its response
async function showNear(n) {
  const turn = ++state.drawing, s = state.stim, own = await block("n" + n, responses);
  if (turn !== state.drawing) return null;
  const all = state.data.stims.map((_, i) => i), there = all.filter(i => holds(own, i));
  const near = there.length ? there : all.filter(i => has(n, i));
  return show(n, near.length ? near.reduce((a, b) => Math.abs(b - s) < Math.abs(a - s) ? b : a) : s);
}

function asked() {
  const found = new URLSearchParams(location.hash.slice(1)), place = (list, key) => list.findIndex(v => v.label === found.get(key));
  const n = place(state.data.neurons, "neuron"), s = place(state.data.stims, "stim");
  return n >= 0 && s >= 0 ? [n, s] : null;
}

// The first pair with most repeats; where the page has none of it, one of the first neuron of which it has any
async function first() {
  const S = state.data.stims.length, N = state.data.neurons.length;
  let best = 0;
  for (let i = 1; i < state.repeats.length; i++) if (state.repeats[i] > state.repeats[best]) best = i;
  const pair = [Math.floor(best / S), best % S];
  for (const n of [pair[0], ...Array(N).keys()]) {
    const own = await block("n" + n, responses);
    if (holds(own, pair[1])) return [n, pair[1]];
    if (own && own.size) return [n, [...own.keys()].reduce((a, b) => state.repeats[n * S + b] > state.repeats[n * S + a] ? b : a)];
  }
  return pair;
}

function redraw() {
  if (!state.shown) return;
  drawPair();
  drawMap(true);
  drawQuality();
}

function listen() {
  by("neuron").addEventListener("change", e => { showNear(Number(e.target.value)); });
  by("stim").addEventListener("change", e => show(state.neuron, Number(e.target.value)));
  by("smooth").addEventListener("change", e => { state.smooth = Number(e.target.value); drawPair(); });
  for (const [id, axis, step] of [["neuron-before", "neuron", -1], ["neuron-after", "neuron", 1], ["stim-before", "stim", -1], ["stim-after", "stim", 1]]) by(id).addEventListener("click", () => moved(axis, step));
  by("find").addEventListener("input", () => {
    fillNeurons();
    const listed = [...by("neuron").options].map(o => o.value);
    if (listed.includes(String(state.neuron))) by("neuron").value = String(state.neuron);
    else if (!by("neuron").disabled) showNear(Number(listed[0]));
  });
  by("search").addEventListener("input", listFindings);
  document.addEventListener("keydown", e => {
    if (e.altKey || e.ctrlKey || e.metaKey || e.shiftKey || ["INPUT", "SELECT", "TEXTAREA"].includes(e.target.tagName)) return;
    const step = { ArrowLeft: ["stim", -1], ArrowRight: ["stim", 1], ArrowUp: ["neuron", -1], ArrowDown: ["neuron", 1] }[e.key];
    if (!step) return;
    e.preventDefault();
    moved(...step);
  });
  by("map").addEventListener("click", e => { const at = onMap(e); if (at) show(...at); });
  by("map").addEventListener("mousemove", e => {
    const at = onMap(e), d = state.data;
    const r = at ? state.repeats[at[0] * d.stims.length + at[1]] : 0;
    by("map").title = at ? `${d.neurons[at[0]].title} \u00d7 ${d.stims[at[1]].title}: ${r ? r + (r === 1 ? " repeat" : " repeats") : "never presented"}` : "";
  });
  let waiting = 0;
  addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(redraw); });
  addEventListener("hashchange", () => { const pair = asked(); if (pair) show(...pair); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { state.printing = true; redraw(); });
  addEventListener("afterprint", () => { state.printing = false; redraw(); });
}

async function begin() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old for it: Chrome or Edge 80, Firefox 113, Safari 16.4 or newer open it");
  state.data = JSON.parse(new TextDecoder().decode(await unpack("data")));
  state.repeats = await unpack("coverage");
  by("coverage-title").textContent = state.data.coverage.title;
  by("smooth").append(...SMOOTHINGS.map(w => new Option(w ? `${w} ms Hann` : "not smoothed", String(w))));
  by("smooth").value = String(state.smooth);
  by("stim").append(...state.data.stims.map((s, i) => new Option(s.title, String(i))));
  fillNeurons();
  drawQuality();
  listFindings();
  await show(...(asked() || await first()));
  listen();
  document.body.dataset.ready = String(Math.round(performance.now()));
}

window.strfcube = { state, show, mean: () => smoothed(state.shown.pair.mean, kernel(state.data.dt * 1000, state.smooth)) };
begin().catch(error => {
  by("failed").textContent = `This page cannot be shown: ${error.message}`;
  by("failed").hidden = false;
  throw error;
});
})();
