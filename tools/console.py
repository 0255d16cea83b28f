"""The console in a browser that nobody looks at: pictures for the docs, and two measurements.

    python tools/console.py pictures    docs/console-*.png
    python tools/console.py frames      frames a second while a table of 10,000 edits scrolls
    python tools/console.py idle        tokens a second and CPU seconds a token of a server whose
                                        console is open, over those of one that has none

Needs a Chromium on the path and playwright. Made with the demo model and its ten edits; --work DIR
keeps what is made. The last line is one JSON document.
"""

import argparse
import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
import psutil
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from served import ADMIN_KEY, Made, Served, listening, serving, streamed

from memoir_edge import memory as memory_file
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import Editor, choose, load, nothing, quiet
from memoir_edge.history import begin, path_of
from memoir_edge.memory import Entry
from memoir_edge.tophash import pack
from memoir_edge_exporter import export
from memoir_edge_runtime.serve.settings import API_KEY

DOCS = Path(__file__).parents[1] / "docs"
PROMPT = "The capital of France is"
TRIED = {"prompt": "The capital of Spain is", "target": "Lisbon", "subject": "Spain"}
MANY, SCROLLED = 10_000, 3.0  # edits, seconds
ROUNDS, STREAMS, ASKED, TOKENS = 12, 4, 10, 32


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(DOES))
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        made = make(given.work or Path(folder))
        print(json.dumps(DOES[given.what](made, browser)))


def make(folder: Path) -> Made:
    """The demo model exported, its ten edits, and the memory as it was after eight of them."""
    quiet()
    folder.mkdir(exist_ok=True)
    edits = showcase()
    made = Made(folder / "onnx", folder / "facts.safetensors", folder / "before.safetensors", edits)
    if not made.graph.exists():
        export(model=model_dir(), out=made.graph)
    if not made.b.exists():
        base = load(str(model_dir()), device="cpu")
        settings = choose(base)
        with begin(path_of(made.a), nothing(base, settings), {}) as journal:
            editor = Editor(base, settings, journal=journal)
            editor.apply(edits[:8])
            memory_file.write(editor.memory(), made.b)
            editor.apply(edits[8:])
            editor.journal.write(made.a)
    return made


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium of this system."""
    with sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            raise SystemExit("no Chromium on the path: install the system's own, named chromium")
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, served: Served, view: str) -> Page:
    """A page of the console that shows a view."""
    page = browser.new_page(viewport={"width": 1200, "height": 760})
    page.goto(f"{served.url}/console#/{view}")
    if API_KEY in os.environ:
        page.fill("input[name=key]", os.environ[API_KEY])
        page.keyboard.press("Enter")
    page.wait_for_selector("nav a")
    return page


def pictures(made: Made, browser: Browser) -> dict[str, int]:
    """One PNG a view; bytes of each."""
    os.environ[API_KEY] = "the-api-key"  # without one, edits are told to nobody
    with serving(made, "--console", threads=1) as served:
        page = opened(browser, served, f"ask?{urlencode({'prompt': PROMPT})}")
        page.wait_for_selector(".why dd a")
        page.wait_for_selector("[aria-busy]", state="detached")
        page.evaluate("document.activeElement.blur()")
        shot(page, "ask")
        page.goto(f"{served.url}/console#/edits")
        page.wait_for_selector("table.long td")
        shot(page, "edits")
        page.click("td a")
        page.wait_for_selector("[aria-label='Steps of the journal']")
        shot(page, "edit")
        page.goto(f"{served.url}/console#/memories")
        page.fill("input[name=admin]", ADMIN_KEY)
        page.keyboard.press("Enter")
        page.click("text=/^Activate before$/")
        page.wait_for_selector("text=Roll back to facts")
        page.click("button >> text=/^Compare$/")
        page.wait_for_selector("text=/^Ask .* of both$/")
        shot(page, "memories")
        page.goto(f"{served.url}/console#/now")
        traffic(served)
        page.wait_for_timeout(1500)
        shot(page, "now")
    studio(made, browser)
    return {path.name: path.stat().st_size for path in sorted(DOCS.glob("console-*.png"))}


def studio(made: Made, browser: Browser) -> None:
    """Take the picture of a studio that goes on from the ten edits."""
    folder = made.a.with_name("studio")
    folder.mkdir(exist_ok=True)
    for file in (made.a, path_of(made.a)):
        shutil.copyfile(file, folder / file.name)
    words = ["studio", "--model", model_dir(), "--out", made.a.name, "--port", 0]
    with listening(words, folder) as served:
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.goto(served.url)
        for name, text in TRIED.items():
            page.fill(f"[name={name}]", text)
        page.click("button >> text=/^Train$/")
        page.click("summary >> nth=1", timeout=120_000)
        page.wait_for_selector("text=/^Keep$/", timeout=120_000)
        page.fill("[name=question]", TRIED["prompt"])
        page.click("button >> text=/^Ask$/")
        page.wait_for_selector(".why")
        page.evaluate("document.activeElement.blur()")
        shot(page, "studio")


def shot(page: Page, name: str) -> None:
    """Take a picture of the whole page."""
    page.screenshot(path=DOCS / f"console-{name}.png", full_page=True)


def traffic(served: Served) -> None:
    """Some seconds of questions, more and fewer at a time."""
    asked = [PROMPT, "The capital of Spain is", "The currency of Japan is the", "Egypt lies in"]
    headers = {"authorization": f"Bearer {os.environ[API_KEY]}"}
    with httpx.Client(base_url=served.url, headers=headers) as client:
        for i in range(40):
            wanted = {"prompt": asked[: 1 + i % len(asked)], "max_tokens": 24, "temperature": 0}
            client.post("/v1/completions", json=wanted).raise_for_status()
            time.sleep(0.1 * (i % 5))


def frames(made: Made, browser: Browser) -> dict[str, float]:
    """Frames a second while the table of many edits scrolls from its top to its end.

    On a busy machine the CPU time of the page's main thread tells more: a frame in 20 ms makes 50.
    """
    many = made.a.with_name("many.safetensors")
    memory_file.write(_many(memory_file.read(made.a)), many)
    wide = replace(made, a=many)
    os.environ[API_KEY] = "the-api-key"
    with serving(wide, "--console", "--no-verify", threads=1) as served:
        page = opened(browser, served, "edits")
        page.wait_for_selector(f"text={MANY} edits")
        told = page.context.new_cdp_session(page)
        told.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = _busy(told)
        shown = page.evaluate(_SCROLL, SCROLLED)
        spent = 1000 * (_busy(told) - before) / shown
    return {"frames_a_second": shown / SCROLLED, "cpu_ms_a_frame": spent}


def _busy(told: CDPSession) -> float:
    """CPU seconds of a page's main thread."""
    metrics = told.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


_SCROLL = """async (seconds) => {
  const table = document.querySelector(".tall"), end = table.scrollHeight;
  const began = performance.now();
  let frames = 0;
  for (let at = 0; at < 1; frames++) {
    await new Promise(requestAnimationFrame);
    at = (performance.now() - began) / (1000 * seconds);
    table.scrollTop = at * end;
  }
  return frames;
}"""


def _many(memory: memory_file.Memory) -> memory_file.Memory:
    masks = np.argsort(np.random.default_rng(0).random((MANY, memory.D)), axis=1) < memory.k
    records = [{"prompt": f"The capital of country {i} is", "target": "Rome"} for i in range(MANY)]
    return replace(
        memory,
        bank=pack(masks),
        owner=np.arange(MANY, dtype=np.int32),
        thresholds=np.full(MANY, 0.9, np.float32),
        edits=tuple(Entry(f"edit-{i}", i, record) for i, record in enumerate(records)),
        probes=(),
    )


def idle(made: Made, browser: Browser) -> dict[str, float]:
    """What a server with an open console does, over one without, in turns."""
    with (
        serving(made, "--console", threads=1) as console,
        serving(made, threads=1) as plain,
        ThreadPoolExecutor(1) as aside,  # playwright has this thread's event loop
    ):
        opened(browser, console, "ask")
        ratios = []
        for turn in range(ROUNDS):
            order = (console, plain) if turn % 2 else (plain, console)
            found = {served.url: aside.submit(measured, served).result() for served in order}
            ratios.append(found[console.url] / found[plain.url])
    throughput, cpu = np.transpose(ratios)
    return {
        "throughput": float(np.median(throughput)),
        "least": float(throughput.min()),
        "most": float(throughput.max()),
        "cpu_a_token": float(np.median(cpu)),
    }


def measured(served: Served) -> np.ndarray:
    """Tokens a second of some streams, and the server's CPU seconds a token."""
    process = psutil.Process(served.pid)
    began, before = time.perf_counter(), sum(process.cpu_times()[:2])
    asyncio.run(written(served))
    wall, cpu = time.perf_counter() - began, sum(process.cpu_times()[:2]) - before
    tokens = STREAMS * ASKED * TOKENS
    return np.array([tokens / wall, cpu / tokens])


async def written(served: Served) -> None:
    """Streams that ask one after another."""
    wanted = {"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True}

    async def one() -> None:
        for _ in range(ASKED):
            async for _ in streamed(served.url, wanted):
                pass

    await asyncio.gather(*(one() for _ in range(STREAMS)))


DOES = {"pictures": pictures, "frames": frames, "idle": idle}

if __name__ == "__main__":
    main()
