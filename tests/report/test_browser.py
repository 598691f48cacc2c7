"""The page in a real browser: nothing overflows, overlaps, is cut or too pale, and nothing is asked of the network."""

import asyncio
import base64
import io
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.evaluate.cells import COMPLEMENT
from medssl.report import write_report
from medssl.report.pdf import find_browser, write_pdf
from tests.evaluate.test_sections import scored
from tests.report.test_hostile_content import HOSTILE, outlined
from tests.report.test_hostile_content import scored as named

aiohttp = pytest.importorskip("aiohttp", reason="the browser is spoken to by aiohttp, which is not installed")

try:
    BROWSER = find_browser()
except UserError:
    BROWSER = ""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome is on the path: the page cannot be looked at"),
]

SIZES = {"laptop": (1280, 800), "tablet": (820, 1180), "phone": (390, 844)}
SCHEMES = ("light", "dark")
WIDTHS = (1280, 1252, 1100, 1000)
"""Of a window that is wide enough for two columns, and of one that is not."""

OUTSIDE = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.wide') && e.getBoundingClientRect().width && e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + '.' + e.getAttribute('class'))
"""
"""What reaches beyond the right edge, other than by a table that scrolls in itself."""

PALE = """
(() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const linear = v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] > 0) return c;
    }
    return [255, 255, 255, 1];
  };
  const pale = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), ink = parse(e.closest('svg') ? style.fill : style.color), back = ground(e);
    const [a, b] = [light(ink), light(back)].sort((x, y) => x - y);
    if ((b + .05) / (a + .05) < 4.5) pale.push(e.tagName + ' ' + e.textContent.slice(0, 40) + ' ' + style.color);
  }
  return pale;
})()
"""
"""Words whose contrast with what is behind them is below 4.5, as they are drawn."""

TOUCHING = """
(() => {
  const found = [];
  for (const axis of document.querySelectorAll('svg.axis')) {
    const boxes = [...axis.querySelectorAll('text')].map(t => t.getBoundingClientRect()).filter(r => r.width);
    for (let k = 1; k < boxes.length; k++) if (boxes[k].left < boxes[k - 1].right) found.push('ticks ' + k);
  }
  for (const table of document.querySelectorAll('table.forest')) {
    const room = table.closest('.wide');
    if (room.scrollWidth > room.clientWidth + 1) found.push('the first table scrolls');
  }
  for (const row of document.querySelectorAll('table.forest tr')) {
    const cells = [...row.children].map(c => [c, c.getBoundingClientRect()]).filter(([, r]) => r.width);
    for (const [cell, box] of cells) {
      const inside = document.createRange(); inside.selectNodeContents(cell);
      if (!cell.querySelector('svg') && inside.getBoundingClientRect().right > box.right + 1) found.push(cell.textContent);
    }
  }
  return found;
})()
"""
"""Numbers on an axis that run into each other; a first table that has to be scrolled, and words that leave their cell."""

WHERE = "(id => { const r = document.getElementById(id).getBoundingClientRect(); return [r.top, r.bottom]; })"


async def _speak(page, views, profile):
    """What the browser sees of a page in each view, a (width, height, scheme)."""
    command = [BROWSER, "--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    command += ["--hide-scrollbars", f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = Path(profile) / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert time.monotonic() < until, "the browser did not start"
            await asyncio.sleep(0.05)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
                target = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                return await _look(socket, page, views)
    finally:
        process.terminate()
        process.wait(timeout=30)


async def _look(socket, page, views):
    count, events = 0, []

    async def call(method, **told):
        nonlocal count
        count += 1
        await socket.send_json({"id": count, "method": method, "params": told})
        while True:
            message = await asyncio.wait_for(socket.receive_json(), 60)
            if message.get("id") == count:
                assert "error" not in message, message
                return message["result"]
            events.append(message)

    async def ask(expression):
        answer = await call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    for part in ("Page", "Network", "Log"):
        await call(f"{part}.enable")
    seen = {}
    for name, (width, height, scheme) in views.items():
        await call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        await call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await call("Page.navigate", url=page.resolve().as_uri())
        while not await ask("document.readyState === 'complete' && !!document.querySelector('main')"):
            await asyncio.sleep(0.05)
        one = {"ends": [await ask(f"{WHERE}('{end}')") for end in ("analysis1-cannot", "analysis1-flow")]}
        one["table"] = await ask("document.querySelector('table.forest').getBoundingClientRect().bottom")
        for state in ("folded", "open"):
            await ask(
                f"document.querySelectorAll('details').forEach(d => d.open = {'true' if state == 'open' else 'false'})"
            )
            size = (await call("Page.getLayoutMetrics"))["cssContentSize"]
            one[state] = {"width": size["width"], "outside": await ask(OUTSIDE), "pale": await ask(PALE)}
            one[state]["touching"] = await ask(TOUCHING)
        await ask("document.querySelectorAll('details').forEach(d => d.open = false)")
        shot = await call("Page.captureScreenshot", format="png")
        one["shot"] = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"), dtype=int)
        await call("Emulation.setEmulatedMedia", media="print")
        one["printed"] = await ask(
            "[...document.querySelectorAll('details table')].map(t => t.getBoundingClientRect().height)"
        )
        seen[name] = one
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    entries = [event["params"]["entry"]["text"] for event in events if event["method"] == "Log.entryAdded"]
    return {"seen": seen, "asked": asked, "said": entries}


def visit(page, views, folder):
    profile = folder / "profile"
    profile.mkdir(exist_ok=True)
    return asyncio.run(_speak(page, views, profile))


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looked")
    page = write_report(evaluate({"glaucoma": scored(), "gland": outlined("A")}, minimum_patients=12), folder)
    views = {f"{size} {scheme}": (*SIZES[size], scheme) for size in SIZES for scheme in SCHEMES}
    views["again"] = (*SIZES["laptop"], "light")
    return {**visit(page, views, folder), "page": page}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    groups = np.array([*HOSTILE.values(), "x" * 300])
    rows = named("A", 18 * 24)
    report = evaluate({"y" * 200: rows.assign(race=groups[np.arange(len(rows)) % 18])}, title="z" * 400)
    views = {f"{size} light": (*SIZES[size], "light") for size in SIZES}
    return visit(write_report(report, folder), views, folder)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """Pairs of two attributes of which some are few and hide others."""
    folder = tmp_path_factory.mktemp("crossed")
    organs = outlined("A").rename(columns={"dice_mean": "dice_kidney_left"})
    organs = organs.assign(nsd_kidney_left=organs["dice_kidney_left"], hd95_kidney_left=1.0)
    by = ["sex", "race", "sex*race", "site"]
    report = evaluate({"glaucoma": scored(), "organs": organs}, by=by, minimum_patients=30)
    reasons = {row["reason"] for row in report["analyses"][0]["estimates"] if row["attribute"] == "sex*race"}
    assert any(reason.endswith(COMPLEMENT) for reason in reasons)
    views = {f"{width} light": (width, 800, "light") for width in WIDTHS}
    return visit(write_report(report, folder), views, folder)


ALL = [f"{size} {scheme}" for size in SIZES for scheme in SCHEMES]


@pytest.mark.parametrize("view", ALL)
@pytest.mark.parametrize("state", ["folded", "open"])
def test_the_page_is_never_wider_than_the_screen(looked, view, state):
    one = looked["seen"][view]
    assert one[state]["width"] == SIZES[view.split()[0]][0]
    assert one[state]["outside"] == []
    assert one[state]["touching"] == []


@pytest.mark.parametrize("size", SIZES)
def test_nor_is_it_with_names_of_any_length_and_script(hostile, size):
    one = hostile["seen"][f"{size} light"]
    for state in ("folded", "open"):
        assert one[state]["width"] == SIZES[size][0]
        assert one[state]["outside"] == []
        assert one[state]["touching"] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_reasons_push_no_verdict_off_the_screen(crossed, width):
    assert crossed["seen"][f"{width} light"]["folded"]["touching"] == []


@pytest.mark.parametrize("view", ALL)
def test_words_are_dark_or_light_enough_as_they_are_drawn(looked, view):
    assert looked["seen"][view]["open"]["pale"] == []


def test_one_screen_holds_the_first_answers(looked):
    one = looked["seen"]["laptop light"]
    height = SIZES["laptop"][1]
    (top, _), (_, flow) = one["ends"]
    assert top < height
    assert flow < height
    assert one["table"] < height


def test_nothing_but_the_file_is_asked_for(looked, hostile):
    for seen in (looked, hostile):
        assert seen["asked"]
        assert all(address.startswith(("file://", "data:image/png")) for address in seen["asked"])
        assert seen["said"] == []  # the policy had nothing to refuse
    assert looked["page"].stat().st_size < 2_000_000


def test_on_paper_every_folded_table_is_open(looked):
    heights = looked["seen"]["laptop light"]["printed"]
    assert len(heights) >= 6
    assert min(heights) > 20


def test_the_same_page_gives_the_same_picture_and_night_is_not_day(looked):
    seen = looked["seen"]
    assert seen["laptop light"]["shot"].shape == (800, 1280, 3)
    assert np.abs(seen["laptop light"]["shot"] - seen["again"]["shot"]).max() <= 2
    day, night = (seen[f"laptop {scheme}"]["shot"].mean() for scheme in SCHEMES)
    assert day > 200
    assert night < 60


def test_the_page_is_printed(looked):
    path = write_pdf(looked["page"])
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    assert 10_000 < len(content) < 5_000_000
    assert content.count(b"/Type /Page\n") >= 3
    assert {one.name for one in path.parent.iterdir() if one.name.startswith(".")} == set()
