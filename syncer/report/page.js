"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const SVG = "http://www.w3.org/2000/svg";
const ROWS = 100;

// every text of the report goes into the page as text, and none as markup
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function draw(name, attributes, title) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (title) { const tip = document.createElementNS(SVG, "title"); tip.textContent = title; element.append(tip); }
  return element;
}
function label(x, y, text, anchor) {
  const element = draw("text", { x, y, "text-anchor": anchor || "start" });
  element.textContent = text;
  return element;
}
function section(title, ...children) {
  page.append(make("section", {}, make("h2", {}, title), ...children));
}
function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  const units = ["kB", "MB", "GB", "TB", "PB"];
  let unit = -1;
  do { count /= 1000; unit += 1; } while (count >= 999.5 && unit < 4);
  return `${count.toFixed(count < 9.995 ? 2 : count < 99.95 ? 1 : 0)} ${units[unit]}`;
}
function seconds(count) {
  if (count < 9.95) return `${count.toFixed(1)} s`;
  const whole = Math.round(count);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  const two = (number) => String(number).padStart(2, "0");
  return minutes < 60 ? `${minutes} min ${two(whole % 60)} s` : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}
const FORMATS = { bytes, seconds, number: (value) => value.toLocaleString("en"), text: (value) => value ?? "" };

// a table of any number of rows: a page of them at a time, searched and sorted as a whole
function table(id, columns, rows, { search = true } = {}) {
  const texts = search ? rows.map((row) => row.join("\n").toLowerCase()) : [];
  const head = make("tr");
  const body = make("tbody");
  const field = make("input", { type: "search", placeholder: "Search", "aria-label": `Search ${id}` });
  const count = make("span", { class: "dim", role: "status" });
  const back = make("button", { type: "button" }, "‹ Back");
  const next = make("button", { type: "button" }, "More ›");
  let shown = rows.map((_, number) => number);
  let sorted = null;
  let first = 0;

  function show() {
    const found = shown.slice(first, first + ROWS);
    body.replaceChildren(...found.map((number) => make("tr", {}, ...columns.map((column, at) => {
      const value = rows[number][at];
      const isNumber = column.kind !== "text";
      const cell = make("td", isNumber ? { class: "number" } : {}, value === null ? "" : FORMATS[column.kind](value));
      if (column.isState) cell.className = `state ${String(value).replace(/[^a-z]/g, "")}`;
      return cell;
    }))));
    const last = first + found.length;
    count.textContent = shown.length ? `${first + 1}–${last} of ${shown.length.toLocaleString("en")}` : "none";
    back.disabled = first === 0;
    next.disabled = last >= shown.length;
  }
  function choose() {
    const wanted = field.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    shown = [];
    for (let number = 0; number < rows.length; number += 1) {
      if (wanted.every((word) => texts[number].includes(word))) shown.push(number);
    }
    if (sorted) {
      const { at, way } = sorted;
      const collator = new Intl.Collator("en", { numeric: true });
      shown.sort((a, b) => {
        const [one, two] = [rows[a][at], rows[b][at]];
        if (one === null || two === null) return (one === null) - (two === null);
        return way * (typeof one === "number" ? one - two : collator.compare(one, two));
      });
    }
    first = 0;
    show();
  }
  columns.forEach((column, at) => {
    const button = make("button", { type: "button" }, column.title);
    const cell = make("th", column.kind === "text" ? { scope: "col" } : { scope: "col", class: "number" }, button);
    button.addEventListener("click", () => {
      const way = sorted && sorted.at === at ? -sorted.way : column.kind === "text" ? 1 : -1;
      sorted = { at, way };
      for (const other of head.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      for (const other of head.querySelectorAll("button")) other.textContent = other.textContent.replace(/ [▲▼]$/, "");
      button.textContent = `${column.title} ${way > 0 ? "▲" : "▼"}`;
      choose();
    });
    head.append(cell);
  });
  field.addEventListener("input", choose);
  back.addEventListener("click", () => { first = Math.max(0, first - ROWS); show(); });
  next.addEventListener("click", () => { first += ROWS; show(); });
  show();
  const tools = make("div", { class: "tools" });
  if (search) tools.append(field);
  if (search || rows.length > ROWS) tools.append(make("span", { class: "pager" }, back, next, count));
  return make("div", { id }, tools, make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), body)));
}

function bars(values, format) {
  const most = Math.max(...values.map(([, value]) => value));
  const box = make("div", { class: "bars" });
  for (const [name, value] of values) {
    const bar = make("i");
    bar.style.width = `${(100 * value) / most}%`;
    box.append(make("span", {}, name), make("span", {}, bar), make("span", {}, format(value)));
  }
  return box;
}

const WIDE = 1000;
const LEFT = 70;
const RIGHT = 14;

function axis(svg, height, end) {
  for (let part = 0; part <= 4; part += 1) {
    const x = LEFT + (part * (WIDE - LEFT - RIGHT)) / 4;
    svg.append(draw("line", { class: "grid", x1: x, x2: x, y1: 8, y2: height - 20 }));
    svg.append(label(x, height - 6, seconds((end * part) / 4), part === 4 ? "end" : part ? "middle" : "start"));
  }
}

function throughput(timeline) {
  const height = 200;
  const width = timeline.bucket_seconds;
  const end = Math.max(width, width * timeline.in_flight.length);
  const rates = [timeline.bytes_received, timeline.bytes_sent].map((series) => series.map((count) => count / width));
  const most = Math.max(1, ...rates.flat());
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${height}`, role: "img", "aria-label": "Throughput over time" });
  axis(svg, height, end);
  for (let part = 0; part <= 2; part += 1) {
    const y = height - 24 - (part * (height - 40)) / 2;
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y, y2: y }));
    svg.append(label(LEFT - 6, y + 4, `${bytes((most * part) / 2)}/s`, "end"));
  }
  rates.forEach((series, number) => {
    const points = series.map((rate, at) => {
      const x = LEFT + ((at + 0.5) * width * (WIDE - LEFT - RIGHT)) / end;
      return `${x.toFixed(1)},${(height - 24 - (rate * (height - 40)) / most).toFixed(1)}`;
    });
    svg.append(draw("polyline", { class: number ? "sent" : "received", points: points.join(" ") }));
  });
  return svg;
}

function spans(timeline) {
  const rows = [];
  const placed = timeline.blobs.map((blob) => {
    let row = rows.findIndex((free) => free <= blob.at);
    if (row < 0) row = rows.push(0) - 1;
    rows[row] = blob.at + blob.seconds;
    return row;
  });
  const hosts = [...new Set(timeline.waits.map((wait) => wait.host))].slice(0, 20);
  const step = 9;
  const height = 34 + step * rows.length + 28 * hosts.length;
  const ends = [...timeline.blobs, ...timeline.waits].map((span) => span.at + span.seconds);
  const end = ends.reduce((a, b) => Math.max(a, b), timeline.bucket_seconds * Math.max(1, timeline.in_flight.length));
  const x = (at) => LEFT + (at * (WIDE - LEFT - RIGHT)) / end;
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${height}`, role: "img", "aria-label": "Blobs over time" });
  axis(svg, height, end);
  timeline.blobs.forEach((blob, number) => {
    const place = { x: x(blob.at), y: 10 + step * placed[number], height: step - 2 };
    place.width = Math.max(1, x(blob.at + blob.seconds) - place.x);
    const to = blob.site ? ` to ${blob.site}` : "";
    const told = `${blob.image || blob.digest}${to}\n${bytes(blob.bytes)} in ${seconds(blob.seconds)}, ${blob.outcome}`;
    svg.append(draw("rect", { class: blob.outcome === "failed" ? "blob bad" : "blob", rx: 1, ...place }, told));
  });
  hosts.forEach((host, number) => {
    const y = 26 + step * rows.length + 28 * number;
    for (const wait of timeline.waits.filter((each) => each.host === host)) {
      const place = { x: x(wait.at), y, height: 10, width: Math.max(2, x(wait.at + wait.seconds) - x(wait.at)) };
      const times = wait.count > 1 ? `, ${wait.count} times` : "";
      const kind = ["pause", "retry", "away", "stall"].includes(wait.kind) ? wait.kind : "pause";
      svg.append(draw("rect", { class: kind, ...place }, `${host}: ${kind}${times}, ${seconds(wait.seconds)}\n${wait.reason}`));
    }
    svg.append(label(LEFT, y - 4, host));
  });
  return svg;
}

// a row for each site where they are few, else as few rows as it takes, of which each bar tells its own name
function sites(timeline, visits) {
  const names = [...new Set(visits.map(([name]) => name))];
  const isNamed = names.length <= 30;
  const step = isNamed ? 28 : 9;
  const rows = [];
  const placed = [...visits].sort((a, b) => a[1] - b[1]).map(([name, at, taken, state]) => {
    let row = isNamed ? names.indexOf(name) : rows.findIndex((free) => free <= at);
    if (row < 0) row = rows.push(0) - 1;
    if (!isNamed) rows[row] = at + taken;
    return { name, at, taken, state, row };
  });
  const height = 40 + step * (isNamed ? names.length : rows.length);
  const width = timeline ? timeline.bucket_seconds * timeline.in_flight.length : 0;
  const end = visits.reduce((most, [, at, taken]) => Math.max(most, at + taken), Math.max(width, 0.001));
  const x = (at) => LEFT + (at * (WIDE - LEFT - RIGHT)) / end;
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${height}`, role: "img", "aria-label": "Sites over time" });
  axis(svg, height, end);
  for (const { name, at, taken, state, row } of placed) {
    const place = { x: x(at), y: (isNamed ? 24 : 10) + step * row, height: isNamed ? 10 : 7, rx: 1 };
    place.width = Math.max(1, x(at + taken) - place.x);
    const isGood = ["done", "unchanged", "behind"].includes(state);
    svg.append(draw("rect", { class: isGood ? "blob" : "blob bad", ...place }, `${name}: ${state}\n${seconds(taken)}`));
  }
  if (isNamed) names.forEach((name, row) => svg.append(label(LEFT, 20 + step * row, name)));
  return svg;
}

if (data.bound) {
  const box = make("div", { class: "bound", id: "bound" }, make("p", {}, make("b", {}, data.bound.text)));
  if (data.bound.hint) box.append(make("p", {}, `Try ${data.bound.hint}.`));
  if (data.bound.seconds.length) box.append(bars(data.bound.seconds, seconds));
  section("What bounded the run", box);
}
if (data.causes.length) {
  const columns = [{ title: "Cause", kind: "text" }, { title: data.kind === "fleet" ? "Sites" : "Images", kind: "number" },
    { title: "Such as", kind: "text" }];
  section("Failures by cause", table("causes", columns, data.causes, { search: false }));
}
if (data.warnings.length) section("Warnings", make("ul", {}, ...data.warnings.map((text) => make("li", {}, text))));
if (data.timeline && data.timeline.in_flight.length) {
  const legend = make("p", { class: "legend dim" }, make("span", { class: "a" }, "received "), make("span", { class: "b" }, "sent"));
  if ([...data.timeline.bytes_received, ...data.timeline.bytes_sent].some((count) => count > 0)) {
    section("Throughput over time", throughput(data.timeline), legend);
  }
  if (data.timeline.blobs.length || data.timeline.waits.length) {
    const left = data.timeline.blobs_left_out;
    const said = left ? `The ${data.timeline.blobs.length} largest blobs; ${left.toLocaleString("en")} smaller ones are left out. ` : "";
    const words = [["a", "blob "], ["c", "pause "], ["d", "failure, retry, outage or stall"]];
    const marks = words.map(([name, text]) => make("span", { class: name }, text));
    section("Blobs over time", spans(data.timeline), make("p", { class: "legend dim" }, said, ...marks));
  }
}
if (data.visits && data.visits.length) {
  const words = [["a", "visit "], ["d", "visit to a site that did not end well"]];
  const marks = words.map(([name, text]) => make("span", { class: name }, text));
  section("Sites over time", sites(data.timeline, data.visits), make("p", { class: "legend dim" }, ...marks));
}
for (const each of data.tables) section(each.title, table(each.id, each.columns, each.rows, { search: each.search }));
document.documentElement.dataset.ready = "yes";
