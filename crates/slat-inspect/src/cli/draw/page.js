'use strict';
// Addresses are numbers of 4 KiB pages, counted from the lowest one that the tables translate: all of them are exact as numbers.
// The axis is a number from 0 to 1 in which pages have places: with holes folded, piece by piece.
window.onerror = (message) => { document.documentElement.dataset.error = message; };
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const NAMES = { permissions: 'permissions', size: 'leaf size', memory: 'memory type', frames: 'physical address' };
const MODES = Object.keys(NAMES);
const FOLD = 5; // the weight of a folded hole, beside those of pieces
const LANE = 46, GAP = 7, TOP = 6, AXIS = 34, LEFT = 74;

// ---- what is mapped
const runs = [];
{
  let page = 0;
  for (let i = 0; i < data.runs.length; i += 5) {
    const [gap, length, output, kind, marks] = data.runs.slice(i, i + 5);
    page += gap;
    runs.push({ index: runs.length, start: page, end: page + length, output, kind: data.kinds[kind], marks });
    page += length;
  }
}
const sizes = [...new Set(data.kinds.map((kind) => kind.size))].sort((a, b) => b - a);
const lanes = sizes.map((size) => ({ size, runs: runs.filter((run) => run.kind.size === size) }));
const outputs = runs.filter((run) => run.output >= 0);
const lowest = outputs.reduce((low, run) => Math.min(low, run.output), Infinity);
const highest = outputs.reduce((high, run) => Math.max(high, run.output + run.end - run.start), 0);

function hex(page, last) {
  let address = BigInt(page) * 4096n - (last ? 1n : 0n);
  if (data.signExtended && address >> BigInt(data.bits - 1)) address |= (1n << 64n) - (1n << BigInt(data.bits));
  return '0x' + address.toString(16).padStart(data.signExtended ? 16 : Math.ceil(data.bits / 4), '0');
}
function bytes(pages) {
  let size = pages * 4, unit = 0;
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return (Number.isInteger(size) ? size : size.toFixed(size < 10 ? 2 : 1)) + ' ' + units[unit];
}
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]);

// ---- colours
function permissionClass(kind) {
  const key = (kind.r ? 'r' : '') + (kind.w ? 'w' : '') + (kind.x ? 'x' : '');
  return { rwx: 'rwx', wx: 'rwx', rw: 'rw', rx: 'rx', r: 'r', x: 'x', w: 'w', '': 'none' }[key];
}
const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
function ramp(part) {
  const place = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1), index = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mix = VIRIDIS[index].map((from, i) => Math.round(from + (VIRIDIS[index + 1][i] - from) * (place - index)));
  return `rgb(${mix})`;
}
const sizeClass = (size) => Math.min(Math.floor(Math.log2(size / 4096) / 9), 4);
// What a run is coloured by: a key for the legend, and how it is painted.
function paint(run) {
  switch (state.mode) {
    case 'permissions': return { key: permissionClass(run.kind), class: 'p-' + permissionClass(run.kind) };
    case 'size': return { key: run.kind.size, class: 's-' + sizeClass(run.kind.size) };
    case 'memory': return { key: run.kind.memory, class: 'm-' + run.kind.cacheability };
    default: return { key: '', fill: run.output < 0 ? 'var(--none)' : ramp((run.output - lowest) / Math.max(highest - lowest, 1)) };
  }
}
const attributes = (look) => (look.class ? `class="${look.class}"` : `fill="${look.fill}"`);

// ---- the axis
function pieces() {
  if (!runs.length) return [{ start: 0, end: 1, weight: 1 }];
  if (!state.fold) return [{ start: runs[0].start, end: runs[runs.length - 1].end, weight: 1 }];
  return data.pieces.map(([start, end, weight]) => ({ start, end, weight }));
}
let axis = [];
function layOut() {
  const list = pieces();
  const total = list.reduce((sum, piece) => sum + piece.weight, 0) + FOLD * (list.length - 1);
  let at = 0;
  axis = list.map((piece) => {
    const from = at / total;
    at += piece.weight;
    const to = at / total;
    at += FOLD;
    return { ...piece, from, to };
  });
  axis[axis.length - 1].to = 1;
}
function place(page) {
  let index = axis.findIndex((piece) => page < piece.end);
  if (index < 0) return 1;
  const piece = axis[index];
  if (page < piece.start) return index ? (axis[index - 1].to + piece.from) / 2 : 0;
  return piece.from + (page - piece.start) / (piece.end - piece.start) * (piece.to - piece.from);
}
// The page at a place; inside of a folded hole its first one.
function pageAt(position) {
  for (const [index, piece] of axis.entries()) {
    if (position < piece.from) return axis[index - 1].end;
    if (position <= piece.to) {
      const page = piece.start + (position - piece.from) / (piece.to - piece.from) * (piece.end - piece.start);
      return Math.min(Math.floor(page), piece.end - 1);
    }
  }
  return axis[axis.length - 1].end - 1;
}

// ---- what is shown
const state = { mode: 'permissions', fold: true, view: [0, 1], chosen: null, pinned: false, only: null };
const WIDEST = () => Math.max(1e-13, 8 / (axis[axis.length - 1].end - axis[0].start) / 4);
const width = () => Math.max($('map').clientWidth, 320) - LEFT - 8;
const x = (position) => LEFT + (position - state.view[0]) / (state.view[1] - state.view[0]) * width();
const position = (x) => state.view[0] + (x - LEFT) / width() * (state.view[1] - state.view[0]);
// The first of `list` that ends behind `page`.
function firstBehind(list, page) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].end <= page) low = middle + 1; else high = middle;
  }
  return low;
}
function runAt(page, list = runs) {
  const run = list[firstBehind(list, page)];
  return run && run.start <= page ? run : null;
}

// Rectangles of a list of runs between two places: what is narrower than a pixel shares it with its neighbours of the same look.
function rectangles(list, toX, [from, to], y, height) {
  const shapes = [];
  let last = null;
  const flush = () => {
    if (!last) return;
    const wide = Math.max(last.right - last.left, 1);
    const dim = state.only !== null && state.only !== last.key ? ' opacity=".12"' : '';
    shapes.push(`<rect x="${last.left.toFixed(2)}" y="${y}" width="${wide.toFixed(2)}" height="${height}" ${last.look}${dim}/>`);
    if (last.user) shapes.push(`<rect class="user" x="${last.left.toFixed(2)}" y="${y + height - 5}" width="${wide.toFixed(2)}" height="5"${dim}/>`);
  };
  const end = pageAt(to);
  let index = firstBehind(list, pageAt(from));
  while (index < list.length && list[index].start <= end) {
    const run = list[index];
    const left = Math.max(toX(place(run.start)), toX(from)), right = Math.min(toX(place(run.end)), toX(to));
    const look = paint(run), text = attributes(look);
    if (last && last.look === text && last.user === run.kind.user && left - last.right < 0.5) {
      last.right = Math.max(last.right, right);
    } else {
      flush();
      last = { left, right, look: text, key: look.key, user: run.kind.user };
    }
    index += 1;
    if (right - left < 0.5) {
      // Where many share a pixel, the rest of it is theirs as well.
      const next = firstBehind(list, pageAt(from + (left + 0.5 - toX(from)) / (toX(to) - toX(from)) * (to - from)));
      index = Math.max(index, next);
    }
  }
  flush();
  return shapes.join('');
}

function drawOverview() {
  const svg = $('overview'), w = width();
  const toX = (at) => LEFT + at * w;
  svg.setAttribute('viewBox', `0 0 ${w + LEFT + 8} 34`);
  let shapes = `<rect class="lane" x="${LEFT}" y="4" width="${w}" height="26" rx="3"/>` + folds(toX, [0, 1], 4, 26, false);
  shapes += rectangles(runs, toX, [0, 1], 4, 26);
  const [from, to] = state.view.map(toX);
  shapes += `<rect class="outside" x="${LEFT}" y="4" width="${from - LEFT}" height="26"/><rect class="outside" x="${to}" y="4" width="${LEFT + w - to}" height="26"/>`;
  shapes += `<rect class="viewport" x="${from}" y="2.5" width="${Math.max(to - from, 2)}" height="29" rx="3"/>`;
  svg.innerHTML = shapes;
}
function folds(toX, [from, to], y, height, named) {
  let shapes = '';
  for (let i = 1; i < axis.length; i += 1) {
    const [left, right] = [axis[i - 1].to, axis[i].from];
    if (right < from || left > to) continue;
    const [x1, x2] = [toX(left), toX(right)];
    shapes += `<rect class="fold" x="${x1}" y="${y}" width="${x2 - x1}" height="${height}"/>`;
    if (named && x2 - x1 > 58) {
      shapes += `<text x="${(x1 + x2) / 2}" y="${y + height / 2}" text-anchor="middle">${bytes(axis[i].start - axis[i - 1].end)}</text>`;
    }
  }
  return shapes;
}

function drawMap() {
  const svg = $('map'), w = width(), bottom = TOP + lanes.length * (LANE + GAP);
  const height = bottom + AXIS;
  svg.setAttribute('viewBox', `0 0 ${w + LEFT + 8} ${height}`);
  svg.style.height = height + 'px';
  let shapes = `<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7" fill="var(--paper)"/><rect width="3" height="7" fill="var(--fold)"/></pattern><clipPath id="clip"><rect x="${LEFT}" y="0" width="${w}" height="${height}"/></clipPath></defs>`;
  shapes += '<g clip-path="url(#clip)">';
  for (const [index, lane] of lanes.entries()) {
    const y = TOP + index * (LANE + GAP);
    shapes += `<rect class="lane" x="${LEFT}" y="${y}" width="${w}" height="${LANE}" rx="4"/>`;
    shapes += rectangles(lane.runs, x, state.view, y, LANE) + labels(lane.runs, y);
  }
  shapes += folds(x, state.view, TOP, bottom - TOP - GAP, true) + wrongs(bottom) + ticks(bottom, w) + chosen();
  shapes += '</g>';
  for (const [index, lane] of lanes.entries()) {
    const y = TOP + index * (LANE + GAP);
    shapes += `<text class="label" x="${LEFT - 8}" y="${y + LANE / 2 + 4}" text-anchor="end">${bytes(lane.size / 4096)}</text>`;
  }
  svg.innerHTML = shapes;
}
// Names of runs that have room for them.
function labels(list, y) {
  let shapes = '';
  const end = pageAt(state.view[1]);
  for (let index = firstBehind(list, pageAt(state.view[0])), count = 0; index < list.length && count < 400; index += 1, count += 1) {
    const run = list[index];
    if (run.start > end) break;
    const left = Math.max(x(place(run.start)), LEFT), right = Math.min(x(place(run.end)), LEFT + width());
    if (right - left < 74) continue;
    const text = `${run.kind.permissions} ${bytes(run.end - run.start)}`;
    shapes += `<text class="inside" x="${left + 6}" y="${y + 18}" style="paint-order:stroke;stroke:rgba(0,0,0,.45);stroke-width:2px">${escape(text)}</text>`;
  }
  return shapes;
}
function wrongs(bottom) {
  return data.troubles.map(({ start, length }) => {
    const left = x(place(start)), right = Math.max(x(place(start + length)), left + 2);
    return right < LEFT ? '' : `<rect class="wrong" x="${left}" y="${bottom - GAP}" width="${right - left}" height="4"/>`;
  }).join('');
}
function ticks(bottom, w) {
  let shapes = '', free = 0;
  // The edges of pieces, and round addresses within them.
  const marks = [];
  for (const piece of axis) {
    const [left, right] = [x(piece.from), x(piece.to)];
    if (right < LEFT || left > LEFT + w) continue;
    if (left >= LEFT - 1) marks.push([left, piece.start]);
    const perPage = (right - left) / (piece.end - piece.start);
    let step = 1;
    while (step * perPage < 160) step *= 2;
    const [low, high] = [Math.max(pageAt(position(LEFT)), piece.start), Math.min(pageAt(position(LEFT + w)), piece.end)];
    for (let page = Math.ceil(low / step) * step, count = 0; page < high && count < 40; page += step, count += 1) {
      if (page > piece.start) marks.push([left + (page - piece.start) * perPage, page]);
    }
  }
  for (const [at, page] of marks.sort((a, b) => a[0] - b[0])) {
    shapes += `<line class="tick" x1="${at}" y1="${bottom - GAP}" x2="${at}" y2="${bottom + 4}"/>`;
    const text = hex(page), room = text.length * 6.8 + 10;
    if (at < free || at + room > LEFT + w + 8) continue;
    shapes += `<text x="${at + 2}" y="${bottom + 16}">${text}</text>`;
    free = at + room;
  }
  return shapes;
}
function chosen() {
  const run = state.chosen && state.chosen.run;
  if (!run) return '';
  const y = TOP + sizes.indexOf(run.kind.size) * (LANE + GAP), left = x(place(run.start));
  return `<rect class="chosen" x="${left - 1}" y="${y - 1}" width="${Math.max(x(place(run.end)) - left, 1) + 2}" height="${LANE + 2}" rx="3"/>`;
}

const MARK = ['none', 'some', 'all'];
function marks(run) {
  const [accessed, dirty] = [Math.floor(run.marks / 3), run.marks % 3];
  const flag = (mark, letter) => (mark === 2 ? letter : mark === 1 ? letter.toLowerCase() : '-');
  return { accessed, dirty, text: flag(accessed, 'A') + flag(dirty, 'D') };
}
function drawDetail() {
  const found = state.chosen;
  if (!found) {
    $('detail').innerHTML = '<span style="color:var(--soft)">Point at a range to see what it is; click to keep it here.</span>';
    return;
  }
  const run = found.run;
  const title = (start, end) => `<b>${data.addressName} ${hex(start)} – ${hex(end, true)}</b>`;
  if (!run) {
    const [start, end] = found.hole;
    $('detail').innerHTML = `${title(start, end)} nothing is mapped: a hole of ${bytes(end - start)}`;
    return;
  }
  const { accessed, dirty } = marks(run);
  const items = {
    size: bytes(run.end - run.start),
    'physical address': run.output < 0 ? 'in many pieces' : '0x' + (BigInt(run.output) * 4096n).toString(16),
    allows: escape(run.kind.words),
    'memory type': escape(run.kind.memory),
    leaves: `${((run.end - run.start) * 4096 / run.kind.size).toLocaleString('en')} of ${bytes(run.kind.size / 4096)}`,
    accessed: MARK[accessed], dirty: MARK[dirty],
  };
  if (run.kind.flags.length) items.flags = escape(run.kind.flags.join(', '));
  const wrong = data.troubles.filter((trouble) => trouble.start < run.end && trouble.start + trouble.length > run.start);
  $('detail').innerHTML = title(run.start, run.end) + '<dl>' + Object.entries(items).map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join('') + '</dl>' +
    wrong.map((trouble) => `<p>${escape(trouble.text)}</p>`).join('');
}
const MOST_ROWS = 200;
function drawTable() {
  const from = firstBehind(runs, pageAt(state.view[0])), end = pageAt(state.view[1]);
  let to = from;
  while (to < runs.length && runs[to].start <= end) to += 1;
  const shown = runs.slice(from, Math.min(to, from + MOST_ROWS));
  const more = to - from > MOST_ROWS ? `, the first ${MOST_ROWS} of them` : '';
  $('ranges').caption.textContent = `${(to - from).toLocaleString('en')} ranges in view${more}`;
  $('ranges').tBodies[0].innerHTML = shown.map((run) => {
    const look = paint(run), swatch = look.class ? `<svg class="swatch" viewBox="0 0 1 1"><rect ${attributes(look)} width="1" height="1"/></svg>` : `<span class="swatch" style="background:${look.fill}"></span>`;
    return `<tr data-run="${run.index}"${state.chosen && state.chosen.run === run ? ' class="current"' : ''}><td>${swatch}${hex(run.start)}-${hex(run.end, true)}</td><td class="number">${bytes(run.end - run.start)}</td><td>${run.output < 0 ? '…' : '0x' + (BigInt(run.output) * 4096n).toString(16)}</td><td>${escape(run.kind.permissions)}</td><td>${escape(run.kind.memory)}</td><td class="number">${bytes(run.kind.size / 4096)}</td><td>${marks(run).text} ${escape(run.kind.flags.join(' '))}</td></tr>`;
  }).join('');
}
function drawLegend() {
  const amounts = new Map();
  for (const run of runs) {
    const look = paint(run);
    const entry = amounts.get(look.key) || { look, pages: 0, kind: run.kind };
    entry.pages += run.end - run.start;
    amounts.set(look.key, entry);
  }
  const WORDS = { rwx: 'writable and executable', rw: 'read, write', rx: 'read, execute', r: 'read only', x: 'execute only', w: 'write only', none: 'nothing allowed' };
  const name = (key, entry) => ({ permissions: WORDS[key], size: bytes(entry.kind.size / 4096), memory: entry.kind.memory })[state.mode];
  if (state.mode === 'frames') {
    const text = (page) => '0x' + (BigInt(page) * 4096n).toString(16);
    $('legend').innerHTML = outputs.length ? `<span>${text(lowest)}</span><span class="swatch ramp" style="height:14px;border-radius:3px;align-self:center"></span><span>${text(highest)}</span>` : '';
    return;
  }
  const order = [...amounts.entries()].sort((a, b) => b[1].pages - a[1].pages);
  $('legend').innerHTML = order.map(([key, entry]) => `<button data-key="${escape(key)}" title="show only these" class="${state.only !== null && state.only !== key ? 'off' : ''}"><svg class="swatch" viewBox="0 0 1 1"><rect ${attributes(entry.look)} width="1" height="1"/></svg>${escape(name(key, entry))} <small>${bytes(entry.pages)}</small></button>`).join('') +
    (runs.some((run) => run.kind.user) ? '<span style="display:inline-flex;align-items:center;gap:.45rem;padding:.15rem .55rem"><svg class="swatch" viewBox="0 0 14 14"><rect class="lane" width="14" height="14"/><rect class="user" y="9" width="14" height="5"/></svg>user mode</span>' : '');
  for (const button of $('legend').querySelectorAll('button')) {
    button.onclick = () => {
      const key = order.map(([key]) => key).find((key) => String(key) === button.dataset.key);
      state.only = state.only === key ? null : key;
      draw();
    };
  }
}
function draw() {
  drawLegend();
  for (const button of $('modes').children) button.setAttribute('aria-checked', button.dataset.mode === state.mode);
  drawView();
}
let waiting = false;
function drawView() {
  drawOverview();
  drawMap();
  drawDetail();
  drawTable();
  document.documentElement.dataset.state = 'drawn';
}
// Once for each picture that the screen shows, however fast the wheel turns.
function later() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawView(); });
}

// ---- moving
function show(from, to) {
  const span = Math.min(Math.max(to - from, WIDEST()), 1);
  const middle = (from + to) / 2;
  const start = Math.min(Math.max(middle - span / 2, 0), 1 - span);
  state.view = [start, start + span];
  later();
}
function zoom(factor, at) {
  const [from, to] = state.view, center = at === undefined ? (from + to) / 2 : at;
  show(center - (center - from) * factor, center + (to - center) * factor);
}
function fit(run) {
  const [from, to] = [place(run.start), place(run.end)], margin = Math.max(to - from, WIDEST()) * 0.6;
  show(from - margin, to + margin);
}
function choose(page) {
  const run = runAt(page);
  if (run) state.chosen = { run };
  else {
    const next = runs[firstBehind(runs, page)], before = next ? runs[next.index - 1] : runs[runs.length - 1];
    const most = 2 ** (data.bits - 12);
    state.chosen = { run: null, hole: [before ? before.end : 0, next ? next.start : most] };
  }
}
function pick(run) {
  state.chosen = { run };
  state.pinned = true;
  if (place(run.start) < state.view[0] || place(run.end) > state.view[1]) fit(run); else later();
}
// An address as people write it, as a number of a page.
function parse(text) {
  const digits = text.trim().replaceAll('_', '').replace(/^0x/i, '');
  if (!/^[0-9a-f]{1,16}$/i.test(digits)) return null;
  const offset = BigInt('0x' + digits) & ((1n << BigInt(data.bits)) - 1n);
  return Number(offset >> 12n);
}
function go(text) {
  const page = parse(text);
  if (page === null) return false;
  choose(page);
  state.pinned = true;
  if (state.chosen.run) fit(state.chosen.run); else { const at = place(page); show(at - 0.02, at + 0.02); }
  return true;
}

// ---- hands
const map = $('map');
const svgX = (svg, event) => (event.clientX - svg.getBoundingClientRect().left) * (width() + LEFT + 8) / svg.getBoundingClientRect().width;
map.addEventListener('wheel', (event) => {
  event.preventDefault();
  const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
  const span = state.view[1] - state.view[0];
  if (sideways) { const by = (event.deltaX || event.deltaY) / width() * span; show(state.view[0] + by, state.view[1] + by); return; }
  zoom(Math.exp(Math.max(Math.min(event.deltaY, 200), -200) * 0.0022), position(svgX(map, event)));
}, { passive: false });
let drag = null;
map.addEventListener('pointerdown', (event) => { drag = { x: svgX(map, event), view: [...state.view], moved: false }; map.setPointerCapture(event.pointerId); });
map.addEventListener('pointermove', (event) => {
  const at = svgX(map, event);
  if (drag && (drag.moved || Math.abs(at - drag.x) > 3)) {
    drag.moved = true;
    map.classList.add('dragged');
    const by = (drag.x - at) / width() * (drag.view[1] - drag.view[0]);
    show(drag.view[0] + by, drag.view[1] + by);
  } else if (!state.pinned && at >= LEFT) { choose(pageAt(position(at))); later(); }
});
map.addEventListener('pointerup', (event) => {
  if (drag && !drag.moved) {
    const before = state.pinned && state.chosen.run;
    choose(pageAt(position(svgX(map, event))));
    state.pinned = !before || before !== state.chosen.run;
    later();
  }
  drag = null;
  map.classList.remove('dragged');
});
map.addEventListener('dblclick', (event) => { choose(pageAt(position(svgX(map, event)))); if (state.chosen.run) fit(state.chosen.run); });
const overview = $('overview');
let sweep = null;
overview.addEventListener('pointerdown', (event) => { sweep = (svgX(overview, event) - LEFT) / width(); overview.setPointerCapture(event.pointerId); });
overview.addEventListener('pointermove', (event) => { if (sweep !== null) { const at = (svgX(overview, event) - LEFT) / width(); if (Math.abs(at - sweep) > 0.004) show(Math.min(at, sweep), Math.max(at, sweep)); } });
overview.addEventListener('pointerup', (event) => {
  const at = (svgX(overview, event) - LEFT) / width(), half = (state.view[1] - state.view[0]) / 2;
  if (Math.abs(at - sweep) <= 0.004) show(at - half, at + half);
  sweep = null;
});
$('ranges').tBodies[0].addEventListener('click', (event) => { const row = event.target.closest('tr'); if (row) { const run = runs[row.dataset.run]; state.chosen = { run }; state.pinned = true; fit(run); } });
for (const [index, mode] of MODES.entries()) {
  const button = document.createElement('button');
  Object.assign(button, { textContent: NAMES[mode], title: String(index + 1), onclick: () => { state.mode = mode; state.only = null; draw(); } });
  button.setAttribute('role', 'radio');
  button.dataset.mode = mode;
  $('modes').append(button);
}
function setFold(fold) {
  // What is in view stays in view.
  const [from, to] = state.view.map(pageAt), all = state.view[0] === 0 && state.view[1] === 1;
  state.fold = fold;
  $('fold').checked = fold;
  layOut();
  if (all) show(0, 1); else show(place(from), place(to + 1));
}
$('fold').onchange = (event) => setFold(event.target.checked);
$('search').onsubmit = (event) => { event.preventDefault(); const known = go($('address').value); $('address').setCustomValidity(known ? '' : 'not an address'); $('address').reportValidity(); };
$('address').oninput = () => $('address').setCustomValidity('');
$('in').onclick = () => zoom(0.5);
$('out').onclick = () => zoom(2);
$('all').onclick = () => show(0, 1);
document.addEventListener('keydown', (event) => {
  if (event.target.tagName === 'INPUT' && event.target.type !== 'checkbox') { if (event.key === 'Escape') event.target.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const span = state.view[1] - state.view[0];
  const step = (by) => { const here = state.chosen && state.chosen.run ? state.chosen.run.index + by : firstBehind(runs, pageAt(state.view[0])); if (runs[here]) pick(runs[here]); };
  const keys = {
    '+': () => zoom(0.6), '=': () => zoom(0.6), '-': () => zoom(1 / 0.6), 0: () => show(0, 1), Home: () => show(0, 1),
    ArrowLeft: () => show(state.view[0] - span / 6, state.view[1] - span / 6), ArrowRight: () => show(state.view[0] + span / 6, state.view[1] + span / 6),
    ArrowUp: () => zoom(0.6), ArrowDown: () => zoom(1 / 0.6),
    f: () => setFold(!state.fold), n: () => step(1), p: () => step(-1), '/': () => $('address').focus(),
    Escape: () => { state.pinned = false; state.chosen = null; state.only = null; draw(); },
    ...Object.fromEntries(MODES.map((mode, index) => [index + 1, () => { state.mode = mode; state.only = null; draw(); }])),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
window.addEventListener('resize', later);
window.addEventListener('hashchange', () => go(location.hash.slice(1)));

$('title').textContent = data.title;
$('summary').textContent = data.summary;
if (data.wrong) $('summary').insertAdjacentHTML('beforeend', ` · <span style="color:var(--wrong)">${data.wrong.toLocaleString('en')} ${data.wrong === 1 ? 'entry is' : 'entries are'} wrong</span>`);
layOut();
draw();
if (location.hash.length > 1 && go(location.hash.slice(1))) drawView();
document.documentElement.dataset.ranges = runs.length;
