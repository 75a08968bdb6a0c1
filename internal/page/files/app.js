// The page of a freshet daemon. It asks /v1/status every two seconds and keeps what it was told for the plots. All that it shows is set
// as text: names of entries and reasons are the users' own.
"use strict";

let every = 2000;          // milliseconds between two questions
let patience = 5000;       // for an answer
const kept = 150;          // samples: five minutes
const tokenName = "freshet-token";

const $ = (id) => document.getElementById(id);
const samples = [];
let last = null;           // the last status
let answered = null;       // when that came
let paused = false;
let timer = null;
let entryKeys = "";        // what the form of a trace was made for
let linked = false;         // the address was followed once
let asked = 0;             // traces: only what came of the last one is shown

function el(name, attributes, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== null && value !== false) e.setAttribute(key, value === true ? "" : value);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

function svg(name, attributes, text) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text !== undefined) e.textContent = text;
  return e;
}

// Figures for people.

function seconds(s) {
  if (s === undefined || s === null) return "not known";
  if (s === 0) return "0 s";
  if (s < 0.001) return (s * 1e6).toFixed(0) + " µs";
  if (s < 0.9995) return (s * 1e3).toPrecision(s < 0.01 ? 2 : 3).replace(/\.0+$/, "") + " ms";
  if (s < 600) return s.toFixed(s < 10 ? 1 : 0) + " s";
  if (s < 7200) return (s / 60).toFixed(0) + " min";
  return (s / 3600).toFixed(1) + " h";
}

// bound is for what holds at most: it is never shown as less than it is.
function bound(s) {
  if (s < 10) return seconds(Math.ceil(s * 10) / 10);
  if (s < 600) return seconds(Math.ceil(s));
  return s < 7200 ? seconds(Math.ceil(s / 60) * 60) : seconds(Math.ceil(s / 360) * 360);
}

function bytes(n) {
  if (n === undefined || n === null) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 || n >= 100 ? n.toFixed(0) : n.toPrecision(3)) + " " + units[i];
}

function rate(n) { return (n >= 100 ? n.toFixed(0) : n >= 1 ? n.toFixed(1) : n === 0 ? "0" : n.toPrecision(2)) + " /s"; }
function percent(n) { return (n === 0 || n === 100 ? n : Math.min(n, 99.9).toFixed(n > 99 || n < 1 ? 1 : 0)) + " %"; }
function count(n, one) { return n + " " + one + (n === 1 ? "" : "s"); }
function digits(n, length = 2) { return String(n).padStart(length, "0"); }

// Times are this browser's, in digits that are the same everywhere.
function clock(t) { const d = new Date(t); return [d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => digits(n)).join(":"); }
function exact(t) { return clock(t) + "." + digits(new Date(t).getMilliseconds(), 3); }
function moment(t) { const d = new Date(t); return [d.getFullYear(), digits(d.getMonth() + 1), digits(d.getDate())].join("-") + " " + clock(t); }

// Asking.

class Refused extends Error {}

async function ask(path) {
  const headers = {Accept: "application/json"};
  const token = sessionStorage.getItem(tokenName);
  if (token) headers.Authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(token)); // a header is bytes
  const answer = await fetch(path, {headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(patience)});
  if (answer.status === 401) throw new Refused(token ? "The daemon refuses this token." : "");
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(body && body.title ? body.title + ": " + (body.detail || answer.status) : "The daemon answers " + answer.status + ".");
  return body;
}

async function poll() {
  clearTimeout(timer);
  let status = null, failed = null;
  try {
    status = await ask("/v1/status");
    // Whatever stands between may answer in the daemon's place.
    if (!status || !status.started || !Array.isArray(status.regions) || status.regions.length === 0) throw new Error("what answers is no daemon's status");
  } catch (err) {
    failed = err;
  }
  if (paused) return;
  if (failed instanceof Refused) {
    sessionStorage.removeItem(tokenName);
    $("main").hidden = true;
    $("login").hidden = false;
    $("refused").textContent = failed.message;
    $("said").textContent = "";
    contact("");
    document.title = "freshet"; // what it was before is no answer any more
    if (document.activeElement === document.body) $("token").focus();
    return; // until there is another token
  }
  timer = setTimeout(poll, every);
  if (failed) {
    lost(failed);
    return;
  }
  const before = last;
  last = status;
  answered = Date.now();
  $("login").hidden = true;
  $("main").hidden = false;
  document.body.classList.remove("old");
  contact("");
  try {
    keep(status);
    show(status);
  } catch (err) {
    last = before;
    lost(new Error("this page does not understand its answer (" + err.message + "); load the page again"));
  }
}

function contact(text, bad) {
  const p = $("contact");
  if (p.textContent !== text) p.textContent = text;
  p.classList.toggle("lost", !!bad);
}

// lost says that the daemon does not answer; what it said before is shown as old.
function lost(err) {
  const why = err.name === "TimeoutError" ? "it has not answered for " + patience / 1000 + " s" : err instanceof TypeError ? "it cannot be reached" : err.message;
  contact("The daemon does not answer: " + why + ". " + (answered ? "Everything here is from " + clock(answered) + "." : ""), true);
  document.title = "no answer · freshet";
  if (last) outdated();
}

// outdated takes back what was said: nothing is known of now. The plots go on, with a gap.
function outdated() {
  document.body.classList.add("old");
  $("said").textContent = ""; // so that it is said again when it is known
  for (const region of document.querySelectorAll(".region")) {
    region.classList.add("bad");
    region.querySelector(".word").textContent = "NOT KNOWN";
  }
  nothing();
  showPlots();
}

// Samples.

// following is whether the daemon knows how far behind it is. Without the log it does not, and its figures are those of before, or 0.
function following(s) { return s.phase === "streaming" || s.phase === "catching_up"; }

// nothing keeps that now is not known, so that no plot joins what was before to what comes after.
function nothing() {
  samples.push({at: Date.now()});
  if (samples.length > kept) samples.shift();
}

function keep(s) {
  const region = (s.regions || [])[0] || {};
  const reads = s.reads || {};
  const all = (reads.hits || 0) + (reads.misses || 0) + Object.values(reads.bypassed || {}).reduce((a, b) => a + b, 0);
  samples.push({
    at: Date.now(), started: s.started, lag: following(s) ? region.lag_seconds : undefined, stale: region.staleness_seconds,
    retained: following(s) && s.source.wal_status ? s.source.retained_bytes : undefined,
    transactions: s.applied.transactions, keys: s.applied.keys + s.applied.epochs, hits: reads.hits || 0, misses: reads.misses || 0, bypassed: all - (reads.hits || 0) - (reads.misses || 0), reads: all, loads: reads.loads || 0,
  });
  if (samples.length > kept) samples.shift();
}

// comparable is whether what was counted between two samples is known. A daemon that was started anew counts from 0.
function comparable(before, s) { return before && s.started && before.started === s.started && s.at > before.at; }

// perSecond makes rates of a count.
function perSecond(name) {
  return samples.map((s, i) => {
    const before = samples[i - 1];
    if (!comparable(before, s)) return undefined;
    return Math.max(0, (s[name] - before[name]) * 1000 / (s.at - before.at));
  });
}

function ratio() {
  return samples.map((s, i) => {
    const before = samples[i - 1];
    if (!comparable(before, s) || s.reads <= before.reads) return undefined;
    return Math.max(0, Math.min(100, 100 * (s.hits - before.hits) / (s.reads - before.reads)));
  });
}

// Showing.

function show(s) {
  $("namespace").textContent = s.namespace || "";
  document.title = ((s.regions || []).every((r) => r.fresh) ? "fresh" : "NOT FRESH") + " · freshet " + (s.namespace || "");
  showRegions(s);
  const said = (s.regions || []).map((r) => "Region " + r.name + ": " + (r.fresh ? "fresh" : "NOT fresh, " + r.reason)).join("; ");
  if ($("said").textContent !== said) $("said").textContent = said;
  showPlots();
  showSource(s);
  showEntries(s);
  showForm(s);
}

// replace changes what is there only where it differs, so that whoever reads it, or has it read, is not disturbed.
function replace(parent, ...children) {
  const box = el("div", {}, ...children);
  if (parent.innerHTML !== box.innerHTML) parent.replaceChildren(...box.childNodes);
}

function showRegions(s) {
  const regions = (s.regions || []).map((r) => {
    const figures = [];
    if (r.staleness_seconds !== undefined) figures.push("What is cached lacks nothing that was committed more than " + bound(r.staleness_seconds) + " ago");
    figures.push(following(s) && r.applied_lsn ? seconds(r.lag_seconds) + " and " + bytes(r.lag_bytes) + " behind the log" : "How far it is behind the log is not known");
    if (r.lanes_closed) figures.push(r.lanes_closed + " of 16 lanes are lost: their keys are read from the database");
    if (r.memory) figures.push("In this process's memory: " + bytes(r.memory.bytes) + " of " + bytes(r.memory.size_bytes) + ", " + count(r.memory.records, "record") + (r.memory.evicted ? ", " + r.memory.evicted + " given up for want of room" : ""));
    return el("div", {class: "region" + (r.fresh ? "" : " bad")},
      el("p", {}, "Region " + r.name),
      el("p", {class: "word"}, r.fresh ? "FRESH" : "NOT FRESH"),
      r.reason ? el("p", {class: "reason"}, r.reason) : null,
      el("p", {class: "figures"}, figures.join(". ") + "."));
  });
  replace($("answer"), ...regions);
}

function showPlots() {
  const plots = [
    {title: "Behind", unit: seconds, series: [["lag", samples.map((s) => s.lag)], ["staleness bound", samples.map((s) => s.stale)]]},
    {title: "Applied", unit: rate, series: [["transactions", perSecond("transactions")], ["invalidations", perSecond("keys")]]},
    {title: "Reads of this gateway", unit: rate, series: [["hits", perSecond("hits")], ["misses", perSecond("misses")], ["bypassed", perSecond("bypassed")]]},
    {title: "Loads of this gateway", unit: rate, series: [["loads", perSecond("loads")]]},
    {title: "Answered from the cache", unit: percent, top: 100, series: [["share", ratio()]]},
    {title: "Log kept by the slot", unit: bytes, series: [["retained", samples.map((s) => s.retained)]]},
  ];
  $("plots").replaceChildren(...plots.map(figure));
}

// figure is a plot, with its last values beside its title and all of it in words for those who do not see it.
function figure(p) {
  const now = p.series.map(([name, values], i) => {
    const v = values[values.length - 1];
    return el("span", {class: "now s" + i}, (p.series.length > 1 ? name + " " : "") + (v === undefined || v === null ? "–" : p.unit(v)));
  });
  return el("figure", {}, el("figcaption", {}, el("strong", {}, p.title), ...now), draw(p));
}

function nice(top, base) {
  if (!(top > 0)) return base === 1024 ? 1024 : 1;
  const power = Math.pow(base, Math.floor(Math.log(top) / Math.log(base)));
  const unit = base === 1024 ? power * Math.pow(10, Math.floor(Math.log10(top / power))) : power;
  return [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= top);
}

function draw(p) {
  const width = 320, height = 130, left = 4, right = 4, above = 16, below = 18;
  const known = p.series.flatMap(([, values]) => values).filter((v) => v !== undefined && v !== null);
  const highest = Math.max(0, ...known);
  const top = p.top || nice(highest, p.unit === bytes ? 1024 : 10);
  const words = p.series.map(([name, values]) => {
    const some = values.filter((v) => v !== undefined && v !== null);
    return name + ": " + (some.length ? "now " + p.unit(some[some.length - 1]) + ", highest " + p.unit(Math.max(...some)) : "nothing yet");
  });
  const all = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": p.title + ", last five minutes. " + words.join("; ")});
  const span = kept * every;
  const end = samples.length ? samples[samples.length - 1].at : Date.now();
  const x = (at) => left + (width - left - right) * (1 - (end - at) / span);
  const y = (v) => height - below - (height - above - below) * Math.min(v / top, 1);
  for (const v of [0, top / 2, top]) all.append(svg("line", {class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v)}));
  all.append(svg("text", {x: left, y: y(top) - 4}, p.unit(top)));
  all.append(svg("text", {x: left, y: y(top / 2) - 4}, p.unit(top / 2)));
  all.append(svg("text", {x: left, y: height - 4}, "5 min ago"));
  all.append(svg("text", {x: width - right, y: height - 4, "text-anchor": "end"}, "now"));
  p.series.forEach(([, values], i) => {
    let path = "", pen = false;
    values.forEach((v, n) => {
      if (v === undefined || v === null) { pen = false; return; }
      path += (pen ? "L" : "M") + x(samples[n].at).toFixed(1) + " " + y(v).toFixed(1);
      if (!pen) path += "h0.1"; // a single one is seen too
      pen = true;
    });
    if (path) all.append(svg("path", {class: "s" + i, d: path}));
  });
  return all;
}

function showSource(s) {
  const rows = [];
  const add = (name, text, bad) => rows.push(el("dt", {}, name), el("dd", {class: bad ? "bad" : undefined}, text));
  add("Daemon", s.phase.replace(/_/g, " ") + " since " + moment(s.since) + ", started " + moment(s.started), s.phase !== "streaming");
  if (s.problem) add("Problem", s.problem, true);
  const src = s.source;
  add("Slot", src.slot + (src.wal_status ? " (" + src.wal_status + (following(s) ? ")" : " when last looked at)") : ""), src.wal_status && !["reserved", "extended"].includes(src.wal_status));
  if (src.wal_status) add("Keeps", bytes(src.retained_bytes) + " of log, confirmed up to " + src.confirmed_lsn + ", " + bytes(src.confirmed_lag_bytes) + " behind" + (following(s) ? "" : ", when last looked at"));
  if (src.safe_wal_bytes !== undefined) add("Lost after", bytes(src.safe_wal_bytes) + " more", src.safe_wal_bytes < 1 << 30);
  if (s.waiting_parts) add("Held back by", count(s.waiting_parts, "batch").replace(/batchs$/, "batches") + " with a transaction that committed and cannot be seen yet");
  if (s.admission) add("Held back by", s.admission);
  add("Gaps", s.gaps ? s.gaps + ", the last" + (s.last_gap_at ? " on " + moment(s.last_gap_at) : "") + ": " + s.last_gap : "none");
  if (s.file_refused) add("File", "NOT applied when it was read again, the one before is in force: " + s.file_refused.why, true);
  for (const o of s.objectives || []) add("Objective", o.entry + ": at most " + seconds(o.max_staleness_seconds) + " stale, " + (o.met ? "met" : "NOT met"), !o.met);
  add("Names", "generation " + (s.generation || "–") + ", roster revision " + s.roster_revision);
  replace($("source"), ...rows);
}

function showEntries(s) {
  const rows = (s.entries || []).map((e) => {
    let state = e.suspended ? "not cached: " + e.suspended.trim() : "cached";
    if (e.retained) {
      state += ", retained since " + moment(e.retained) + " for libraries with another file";
      if (e.last_used) state += ", used until " + moment(e.last_used) + " by " + e.used_by;
    }
    return el("tr", {}, el("th", {scope: "row"}, e.name), el("td", {class: e.suspended ? "bad" : undefined}, state),
      el("td", {class: "mono"}, e.key || ""), el("td", {class: "mono"}, e.version || ""));
  });
  replace($("entries"), ...(rows.length ? rows : [el("tr", {}, el("td", {colspan: "4"}, "none yet"))]));
}

// Tracing.

// parameters are the names in a key's template.
function parameters(key) {
  return [...key.matchAll(/\{([^{}]+)\}/g)].map((m) => m[1]);
}

function showForm(s) {
  const entries = new Map();
  for (const e of s.entries || []) if (e.key && !entries.has(e.name)) entries.set(e.name, e.key);
  const made = JSON.stringify([...entries]);
  if (made === entryKeys) return;
  entryKeys = made;
  const chosen = $("entry").value;
  $("entry").replaceChildren(...[...entries].map(([name, key]) => el("option", {value: name, "data-key": key}, name)));
  if (entries.has(chosen)) $("entry").value = chosen;
  $("ask").disabled = entries.size === 0;
  showArguments();
  if (!linked) fromAddress(); // later the form is whoever's who types
  linked = linked || entries.size > 0;
}

function showArguments() {
  const option = $("entry").selectedOptions[0];
  const names = option ? parameters(option.dataset.key) : [];
  const same = option && $("arguments").dataset.entry === option.value;
  const before = new Map(same ? [...$("arguments").querySelectorAll("input[name]")].map((i) => [i.name, i]) : []);
  $("arguments").dataset.entry = option ? option.value : "";
  $("arguments").replaceChildren(...names.map((name, n) => {
    const id = "argument-" + n;
    const input = el("input", {id, name, autocomplete: "off", spellcheck: "false", size: "14"});
    const none = el("input", {type: "checkbox", id: id + "-null"});
    if (before.has(name)) {
      input.value = before.get(name).value;
      input.disabled = none.checked = before.get(name).disabled;
    }
    none.addEventListener("change", () => { input.disabled = none.checked; });
    return el("div", {}, el("label", {for: id}, name), input, el("label", {class: "null", for: id + "-null"}, none, "NULL"));
  }));
}

// fromAddress fills the form from the part of the address behind #, by which a trace can be handed on.
function fromAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const entry = said.get("trace");
  if (entry === null || ![...$("entry").options].some((o) => o.value === entry)) return;
  $("entry").value = entry;
  showArguments();
  for (const input of $("arguments").querySelectorAll("input[name]")) {
    const given = said.get("arg." + input.name);
    input.value = given || "";
    input.disabled = given === null;
    input.parentElement.querySelector("input[type=checkbox]").checked = given === null;
  }
  trace();
}

async function trace() {
  const query = new URLSearchParams(), address = new URLSearchParams({trace: $("entry").value});
  for (const input of $("arguments").querySelectorAll("input[name]")) {
    if (input.disabled) continue;
    query.set(input.name, input.value);
    address.set("arg." + input.name, input.value);
  }
  history.replaceState(null, "", "#" + address);
  const to = $("history"), mine = ++asked;
  const answer = (...children) => { if (mine === asked) to.replaceChildren(...children); };
  try {
    const h = await ask("/v1/trace/" + encodeURIComponent($("entry").value) + (query.size ? "?" + query : ""));
    answer(...told(h));
  } catch (err) {
    answer(el("p", {class: "problem"}, err.message || "A token is needed."));
  }
}

function told(h) {
  const all = [el("p", {}, el("span", {class: "mono"}, h.key), " ", now(h.record))];
  for (const p of h.problems) all.push(el("p", {class: "problem"}, "Not known: " + p + "."));
  if (h.since) all.push(el("p", {class: "note"}, "The daemon remembers what the log did since " + moment(h.since) + "."));
  if (h.more) all.push(el("p", {class: "note"}, "Older events are not shown."));
  all.push(h.events.length ? el("ol", {}, ...h.events.toReversed().map(event)) : el("p", {}, h.problems.length ? "No more is known of this key." : "Nothing is remembered of this key."));
  return all;
}

function now(r) {
  if (!r) return "";
  let text = r.state === "none" ? "is not cached" : "is " + r.state.replace(/_/g, " ");
  if (r.ended) text += ", but what it was tied to has ended: the next read loads it";
  if (r.filled) text += ", filled " + seconds(r.age_seconds) + " ago";
  if (r.leased) text += ", somebody is loading it";
  if (r.fences.length) text += ", " + count(r.fences.length, "change") + " that a load has to contain";
  return text + ".";
}

function event(e) {
  const mark = {stored: " good", renewed: " good", refused: " bad", failed: " bad"}[e.kind] || "";
  const details = [];
  if (e.rule) details.push("rule " + e.rule + " (" + e.class + ")");
  if (e.xid) details.push("transaction " + e.xid, "LSN " + e.lsn);
  if (e.xid) details.push(e.applied ? "applied " + seconds(Math.max(0, (new Date(e.applied) - new Date(e.committed)) / 1000)) + " after its commit" : "not applied yet");
  if (e.took_seconds) details.push("in " + seconds(e.took_seconds));
  if (e.kind === "refused") details.push(e.outcome);
  if (e.coverage) details.push("snapshot " + e.coverage);
  if (e.by) details.push("by " + e.by);
  return el("li", {},
    el("time", {datetime: e.at, title: moment(e.at)}, exact(e.at)),
    el("span", {class: "kind" + mark}, e.kind.replace(/_/g, " ")),
    el("div", {}, e.why),
    details.length ? el("div", {class: "detail"}, details.join(", ")) : null);
}

// What people do.

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) {
    nothing();
    poll();
    return;
  }
  clearTimeout(timer);
  contact("Paused at " + clock(Date.now()) + ".");
  document.title = "paused · freshet";
  if (!document.body.classList.contains("old")) {
    for (const word of document.querySelectorAll(".region .word")) word.textContent += " at " + clock(answered);
  }
});
// A tab that nobody looked at asks seldom, or slept: what it shows is not of now.
document.addEventListener("visibilitychange", () => {
  if (document.hidden || paused || $("main").hidden) return;
  if (Date.now() - answered > every + patience) outdated();
  poll();
});
$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  sessionStorage.setItem(tokenName, $("token").value);
  $("token").value = "";
  $("refused").textContent = "";
  poll();
});
$("trace").addEventListener("submit", (e) => { e.preventDefault(); trace(); });
$("entry").addEventListener("change", showArguments);
window.addEventListener("hashchange", fromAddress);

poll();
