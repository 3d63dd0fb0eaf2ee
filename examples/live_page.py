"""A page that updates while a program runs: figures and panels, sent by the program as server-sent events.

    page = LivePage(0, "Flights", "What it shows, in a sentence.", ["EWR", "JFK", "LGA"])
    print(page.address)
    page.show(Snapshot(status="playing", figures=[("sent", "12")], panels=[...]))
    page.close()

The page is one file with its style and script; it loads nothing else, and a browser that comes late or again gets
the newest snapshot at once. It listens on this machine only.
"""

from __future__ import annotations

import html
import json
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of a panel: `parts` has a number for each name of the page's legend; `total` is their sum.

    `is_open`: more may come.
    """

    label: str
    parts: list[int]
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Candle:
    """Prices of a window, and how much was traded. It has the legend's second color if it closed lower, else the first."""

    label: str
    open: float
    high: float
    low: float
    close: float
    volume: int
    is_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point on a map, in the color of the legend's `part`. `x` and `y` are between 0 and the map's width and height."""

    x: float
    y: float
    part: int = 0
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Map:
    """Marks over a ground: `ground` has the points that are drawn as pale dots, y downwards."""

    width: int
    height: int
    ground: list[tuple[int, int]]
    marks: list[Mark]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What stands under a title: bars or candles, all to one scale, rows of a table, or a map.

    `full`: what the longest possible bar stands for; else the largest. `head` names the columns of `rows`: the first holds
    names, the others numbers. `is_wide`: over the whole page.
    """

    title: str
    full: int | None = None
    is_wide: bool = False
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    map: Map | None = None
    bars: list[Bar] = field(default_factory=list)
    candles: list[Candle] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that the page shows at a moment. `progress` goes from 0 to 1; after `is_done` nothing comes any more."""

    status: str
    progress: float = 0.0
    is_done: bool = False
    figures: list[tuple[str, str]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)


class LivePage:
    """See the module. `port` 0 is any free one.

    Raises:
        OSError: the port cannot be listened on.
    """

    def __init__(self, port: int, title: str, about: str, legend: list[str]) -> None:
        marks = "".join(
            f'<span><i class="part part{number}"></i>{html.escape(name)}</span>' for number, name in enumerate(legend)
        )
        page = _PAGE.replace("{title}", html.escape(title)).replace("{about}", html.escape(about))
        self._page = page.replace("{legend}", marks).encode()
        self._news = threading.Condition()
        self._version = 0
        self._newest = b""
        self._closed = False
        self.show(Snapshot(status="starting"))
        owner = self

        class Handler(_Handler):
            page = owner

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # `close` waits until each browser has the last snapshot

        self._server = Server(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True).start()

    def show(self, snapshot: Snapshot) -> None:
        """Send a snapshot to all browsers."""
        text = json.dumps(asdict(snapshot), separators=(",", ":")).encode()
        with self._news:
            if text != self._newest:
                self._newest = text
                self._version += 1
                self._news.notify_all()

    def close(self) -> None:
        """Listen no more; browsers get the newest snapshot before."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seen: int) -> tuple[int, bytes, bool]:
        """Return version and text of the newest snapshot, after 5 s at most, and whether it is the last."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._version != seen, 5)
            return self._version, self._newest, self._closed


class _Handler(BaseHTTPRequestHandler):
    page: LivePage
    timeout = 3  # a browser that takes nothing for so long holds nobody up

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/":
            self._begin(200, "text/html; charset=utf-8")
            self.wfile.write(self.page._page)
        elif self.path == "/events":
            self._begin(200, "text/event-stream")
            try:
                self._send_events()
            except OSError:
                pass  # the browser has left
        else:
            self._begin(404, "text/plain")
            self.wfile.write(b"There are / and /events.\n")

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _send_events(self) -> None:
        seen, is_last = 0, False
        while not is_last:
            version, text, is_last = self.page.wait(seen)
            if version != seen:
                self.wfile.write(b"data: " + text + b"\n\n")
            else:
                self.wfile.write(b": nothing new\n\n")  # tells whether the browser is still there
            seen = version


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root { --ground: #fbfaf8; --card: #fff; --ink: #1d2129; --soft: #5c6470; --line: #e3e1dc;
  --part0: #2a6fbb; --part1: #d9822b; --part2: #3f9b6c; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171c; --card: #1c2027; --ink: #e9e7e2; --soft: #a0a8b4; --line: #313741;
    --part0: #5b9be0; --part1: #e8a05a; --part2: #5fbe8e; } }
* { box-sizing: border-box; }
body { margin: 0; padding: clamp(1rem, 3vw, 2.5rem); background: var(--ground); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 76rem; margin: auto; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
p { color: var(--soft); margin: 0 0 1rem; max-width: 46rem; }
progress { width: 100%; height: .5rem; accent-color: var(--part0); }
#status { color: var(--ink); font-weight: 600; margin: .25rem 0 1rem; }
#figures { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 0 0 1.25rem; }
#figures dt { color: var(--soft); font-size: .85rem; }
#figures dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
#legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-bottom: 1rem; color: var(--soft); }
#legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; }
#panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr));
  align-items: start; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; }
.bars { display: grid; grid-template-columns: fit-content(50%) 1fr 4.5rem; column-gap: .75rem; }
.bar { display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; align-items: center; min-height: 1.9rem;
  font-variant-numeric: tabular-nums; }
.bar > span { min-width: 5.25rem; }
.bar b { text-align: right; font-weight: 500; white-space: nowrap; }
.track { display: flex; gap: 1px; height: .95rem; }
.part { display: block; height: 100%; }
.part0 { background: var(--part0); } .part1 { background: var(--part1); } .part2 { background: var(--part2); }
.open .track, .candles .open { opacity: .55; }
.candles { display: block; width: 100%; height: auto; }
.candles .part0 { fill: var(--part0); stroke: var(--part0); } .candles .part1 { fill: var(--part1); stroke: var(--part1); }
.candles text { fill: var(--soft); font-size: 13px; }
.wide { grid-column: 1 / -1; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 400; font-size: .85rem; }
th, td { text-align: right; padding: .2rem 0 .2rem .75rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:last-child td { border-bottom: 0; }
.scroll { overflow-x: auto; }
.map { display: block; width: 100%; height: auto; }
.map path { stroke: var(--soft); stroke-width: 3; stroke-linecap: round; opacity: .45; }
.map .part0 { fill: var(--part0); } .map .part1 { fill: var(--part1); } .map .part2 { fill: var(--part2); }
</style>
<main>
<h1>{title}</h1>
<p>{about}</p>
<progress id="progress" max="1" value="0" aria-label="how much is played"></progress>
<p id="status" role="status">connecting</p>
<dl id="figures"></dl>
<div id="legend">{legend}</div>
<div id="panels"></div>
</main>
<script>
const byId = id => document.getElementById(id);
const make = (name, kind, text) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
};
const sum = parts => parts.reduce((a, b) => a + b, 0);
const shape = (name, places) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [place, value] of Object.entries(places)) made.setAttribute(place, value);
  return made;
};
const price = number => number.toLocaleString("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});
// Prices are between 12 and 160 from the top, volumes between 175 and 205, times below; prices are written at the right.
const drawnCandles = candles => {
  const high = Math.max(...candles.map(candle => candle.high)), low = Math.min(...candles.map(candle => candle.low));
  const most = Math.max(1, ...candles.map(candle => candle.volume));
  const y = value => high > low ? 160 - 148 * (value - low) / (high - low) : 86;
  const picture = shape("svg", {viewBox: "0 0 440 224", class: "candles", role: "img",
    "aria-label": `${candles.length} candles between ${price(low)} and ${price(high)}`});
  const step = 370 / Math.max(12, candles.length), body = step * .64;
  candles.forEach((candle, number) => {
    const left = number * step + 1, middle = left + body / 2, top = y(Math.max(candle.open, candle.close));
    const kind = candle.close < candle.open ? "part1" : "part0";
    const group = shape("g", {class: candle.is_open ? kind + " open" : kind});
    const title = shape("title", {});
    title.textContent = `${candle.label}  open ${price(candle.open)}, high ${price(candle.high)}, ` +
      `low ${price(candle.low)}, close ${price(candle.close)}, volume ${candle.volume.toLocaleString("en")}`;
    const tall = Math.max(1, y(Math.min(candle.open, candle.close)) - top), volume = 30 * candle.volume / most;
    group.append(title, shape("line", {x1: middle, x2: middle, y1: y(candle.high), y2: y(candle.low)}),
      shape("rect", {x: left, y: top, width: body, height: tall}),
      shape("rect", {x: left, y: 205 - volume, width: body, height: volume, stroke: "none", opacity: .5}));
    picture.append(group);
  });
  const write = (text, places) => { const made = shape("text", places); made.textContent = text; picture.append(made); };
  write(price(high), {x: 436, y: 16, "text-anchor": "end"});
  if (high > low) write(price(low), {x: 436, y: 160, "text-anchor": "end"});
  write(most.toLocaleString("en"), {x: 436, y: 186, "text-anchor": "end"});
  write(candles[0].label, {x: 0, y: 220});
  const last = (candles.length - 1) * step + body;
  if (last > 120) write(candles.at(-1).label, {x: last, y: 220, "text-anchor": "end"});
  return picture;
};
const drawnTable = (head, rows) => {
  const table = make("table"), scroll = make("div", "scroll");
  const line = (cells, name) => {
    const row = make("tr");
    row.append(...cells.map(cell => make(name, "", cell)));
    return row;
  };
  table.append(line(head, "th"), ...rows.map(cells => line(cells, "td")));
  scroll.append(table);
  return scroll;
};
const drawnMap = map => {
  const picture = shape("svg", {viewBox: `0 0 ${map.width} ${map.height}`, class: "map", role: "img",
    "aria-label": `a map with ${map.marks.length} marks`});
  picture.append(shape("path", {d: map.ground.map(([x, y]) => `M${x} ${y}h0`).join("")}));
  for (const mark of map.marks) {
    const dot = shape("circle", {cx: mark.x, cy: mark.y, r: 5, class: "part" + mark.part}), title = shape("title", {});
    title.textContent = mark.label;
    dot.append(title);
    picture.append(dot);
  }
  return picture;
};
const drawn = (panel) => {
  const section = make("section", panel.is_wide ? "wide" : "");
  section.append(make("h2", "", panel.title));
  if (panel.candles.length) section.append(drawnCandles(panel.candles));
  if (panel.head.length) section.append(drawnTable(panel.head, panel.rows));
  if (panel.map) section.append(drawnMap(panel.map));
  const most = panel.full || Math.max(1, ...panel.bars.map(bar => sum(bar.parts)));
  const bars = make("div", "bars");
  for (const bar of panel.bars) {
    const row = make("div", bar.is_open ? "bar open" : "bar"), track = make("div", "track");
    bar.parts.forEach((count, number) => {
      const part = make("span", "part part" + number);
      part.style.width = 100 * count / most + "%";
      part.title = count.toLocaleString("en");
      track.append(part);
    });
    row.append(make("span", "", bar.label), track, make("b", "", sum(bar.parts).toLocaleString("en")));
    bars.append(row);
  }
  section.append(bars);
  return section;
};
const events = new EventSource("/events");
events.onmessage = event => {
  const now = JSON.parse(event.data);
  byId("status").textContent = now.status;
  byId("progress").value = now.progress;
  byId("figures").replaceChildren(...now.figures.map(([name, value]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    return pair;
  }));
  byId("panels").replaceChildren(...now.panels.map(drawn));
  if (now.is_done) events.close();
};
events.onerror = () => { byId("status").textContent = "The program does not answer: it has ended, or is busy."; };
</script>
</html>
"""
