"""The console in a real browser, against a real server."""

import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from memoir_edge import memory as memories
from memoir_edge.history import Audit, Wrong, begin, path_of
from memoir_edge.memory import Entry, Probe
from memoir_edge.tophash import pack

API, ADMIN = "the-api-key", "the-admin-key"
SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"


@pytest.fixture
def told(prompts):
    """The prompts of the memories' edits."""
    return list(dict.fromkeys(prompts[:30:2]))


@pytest.fixture
def running(make_server, files, told):
    """A server with the memories a, which is active and holds records, and b."""
    memory = memories.read(files[0])
    records = [{"prompt": text, "target": SCRIPT, "keys": [SCRIPT]} for text in told]
    edits = tuple(e._replace(record=r) for e, r in zip(memory.edits, records, strict=True))
    memories.write(replace(memory, edits=edits), files[0])
    made = make_server(console=True, api_key=API, admin_key=ADMIN, memory_roots=(files[0].parent,))
    made.server.memories.load(files[0])
    made.server.memories.load(files[1], activate=False)
    return made


@pytest.fixture
def open_page(new_page, running):
    """Opens a page of the console."""

    def open_page(view="", *, login=True, **options):
        page = new_page(running.url, **options)
        page.goto(f"{running.url}/console#/{view}")
        if login:
            sign_in(page, API)
        return page

    return open_page


def sign_in(page, key):
    page.fill("input[name=key]", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("nav a" if key == API else "[role=alert]")


def unlock(page):
    page.fill("input[name=admin]", ADMIN)
    page.keyboard.press("Enter")
    page.wait_for_selector("input[name=path]")


def answers(page):
    page.wait_for_selector(".pair")
    page.wait_for_selector("[aria-busy]", state="detached")
    return [each.text_content() for each in page.query_selector_all(".answer")]


def asked(running, prompt, model):
    with running.client(API) as client:
        body = {"model": model, "prompt": prompt, "max_tokens": 64, "temperature": 0}
        return client.post("/v1/completions", json=body).json()["choices"][0]["text"]


def test_a_wrong_key_is_refused_and_the_right_one_is_taken(open_page):
    page = open_page(login=False)
    sign_in(page, "another-key")
    assert "does not take this key" in page.text_content("[role=alert]")
    sign_in(page, API)
    assert page.text_content("#active").startswith("active: base@a")


def test_asking_shows_both_answers_and_why(open_page, running, told):
    page = open_page()
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")  # to the prompt
    page.keyboard.type(told[3])
    page.keyboard.press("Control+Enter")
    expected = [asked(running, told[3], model) for model in ("base", "base@a")]
    assert answers(page) == expected
    assert page.text_content(".why dd") == "edit-3"
    assert "reaches its threshold" in page.text_content(".why p")
    assert (page.query_selector("mark") is None) == (expected[0] == expected[1])


def test_a_link_reproduces_the_view(open_page, running, told):
    view = urlencode({"prompt": told[1], "model": "base@b"})
    page = open_page(f"ask?{view}")
    assert answers(page)[1] == asked(running, told[1], "base@b")
    assert page.url.endswith(f"#/ask?{view}")


def test_a_link_to_a_memory_that_is_gone_asks_no_other_one(open_page, running, told):
    running.server.unload("b")
    query = urlencode({"prompt": told[0], "model": "base@b"})
    page = open_page(f"ask?{query}")
    page.wait_for_selector("text=base@b is not loaded any more")
    assert page.query_selector(".answer") is None
    page.click("text=/^Ask$/ >> nth=-1")
    page.wait_for_selector(".card h2 >> text=base@a")


def test_an_answer_streams_and_a_swap_does_not_change_it(
    open_page, running, told, endless, slow_steps, session, monkeypatch
):
    expected = asked(running, told[3], "base@a")
    slow_steps(session, monkeypatch)
    page = open_page(f"ask?{urlencode({'prompt': told[3], 'model': 'base@a'})}")
    page.wait_for_selector(".pair")
    lengths = set()
    while page.query_selector(".pair [aria-busy]"):
        lengths.add(len(page.text_content(".pair article:last-child .answer")))
        running.server.memories.activate("b")
        time.sleep(0.02)
    assert len(lengths) > 3  # it came in pieces
    assert answers(page)[1] == expected
    page.click("nav >> text=Edits")
    page.wait_for_selector("#active >> text=base@b")


def test_the_gate_refuses_and_nothing_changes(open_page, running, files):
    memory = memories.read(files[1])
    bad = (Probe("a", "never said", memory.edits[0].id),)
    memories.write(replace(memory, probes=bad), files[1].with_name("bad.safetensors"))
    page = open_page("memories")
    unlock(page)
    page.fill("input[name=path]", "bad.safetensors")
    page.click("button >> text=/^Load$/")
    assert "the memory does not hold here" in page.text_content("[role=alert]")
    assert running.server.memories.table.active == "a"


def test_the_gate_stands_before_activating_too(open_page, running, files):
    memory = memories.read(files[1])
    bad = (Probe("a", "never said", memory.edits[0].id),)
    memories.write(replace(memory, probes=bad), files[1])
    running.server.memories.load(files[1], activate=False, verify=False)
    page = open_page("memories")
    unlock(page)
    page.click("text=/^Activate b$/")
    assert "the memory does not hold here" in page.text_content("[role=alert]")
    assert running.server.memories.table.active == "a"
    page.uncheck("input[name=gate]")
    page.click("text=/^Activate b$/")
    page.wait_for_selector("#active >> text=base@b")


def test_a_memory_is_activated_and_rolled_back(open_page, running):
    page = open_page("memories")
    unlock(page)
    page.click("text=/^Activate b$/")
    page.wait_for_selector("#active >> text=base@b")
    assert running.server.memories.table.active == "b"
    page.click("text=Roll back to a")
    page.wait_for_selector("#active >> text=base@a")
    assert running.server.memories.table.active == "a"


def test_what_answered_before_stays_known_while_others_come_and_go(open_page, running, files):
    page = open_page("memories")
    unlock(page)
    page.click("text=/^Activate b$/")
    page.wait_for_selector("text=Roll back to a")
    page.fill("input[name=path]", files[1].name)
    page.fill("input[name=name]", "c")
    page.uncheck("input[name=activate]")
    page.click("text=/^Load$/")
    page.click("text=/^Unload c$/")
    page.wait_for_selector("text=/^Unload c$/", state="detached")
    page.click("text=Roll back to a")
    page.wait_for_selector("#active >> text=base@a")
    page.click("text=Roll back to b")
    page.wait_for_selector("#active >> text=base@b")


def test_a_wrong_admin_key_opens_nothing(open_page):
    page = open_page("memories")
    page.fill("input[name=admin]", API)
    page.keyboard.press("Enter")
    assert "does not take this admin key" in page.text_content("[role=alert]")
    assert page.query_selector("input[name=path]") is None


def test_an_edits_page_says_how_it_was_made_and_checked(open_page, running, files):
    page = open_page("edits/a/edit-3")
    page.wait_for_selector("text=Its training is not known: no journal lies beside the memory.")
    page.wait_for_selector("dd:has-text('8 probes of the memory held')")
    with begin(path_of(files[0]), memories.read(files[0]), {}) as journal:
        wrong = [Wrong("edit-3", "key", "another text", "no", None)]
        tally = {"edit-3": {"prompt": (1, 1), "key": (2, 1)}}
        journal.record(Audit(15, ["edit-3"], [], tally, wrong))
        journal.write(files[0])
    running.server.memories.load(files[0], verify=False)
    page.reload()
    page.wait_for_selector("td:has-text('asked: did not hold (its prompt 1 of 1, keys 1 of 2)')")
    page.wait_for_selector("[aria-label='What does not hold'] td:has-text('another text')")


def test_two_memories_are_compared_and_asked(open_page, told):
    page = open_page("memories")
    page.click("button >> text=/^Compare$/")
    page.wait_for_selector("[aria-label='Edits that differ']")
    page.click("text=/^Ask .* of both$/")
    page.wait_for_selector("[aria-label='Answers of both'] tbody tr")


def test_a_tab_whose_key_has_expired_asks_for_it_and_goes_on(open_page):
    page = open_page("now")
    page.wait_for_selector(".tiles")
    page.evaluate("sessionStorage.setItem('memoir-edge-api-key', 'old')")
    page.wait_for_selector("input[name=key]")  # the next look at the metrics
    sign_in(page, API)
    page.wait_for_selector(".tiles")
    assert page.url.endswith("#/now")


def test_an_idle_page_asks_the_server_nothing(open_page):
    page = open_page("edits")
    page.wait_for_selector("table.long td")
    asked = []
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == []


def test_what_is_measured_is_shown(open_page, running, told):
    page = open_page("now")
    page.wait_for_selector(".tiles polyline", state="attached")
    asked(running, told[0], "base@a")
    page.wait_for_selector(".tiles article:has-text('edits fired') b >> text=/^1$/")


def test_ten_thousand_edits_are_a_table_of_some_rows(open_page, running, files, tmp_path):
    page = open_page()
    running.server.memories.load(_many(files[0], 10_000, tmp_path), name="many", verify=False)
    page.click("nav >> text=Edits")
    page.wait_for_selector("text=10000 edits")
    page.evaluate("document.querySelector('.tall').scrollTop = 1e9")
    page.wait_for_selector("text=edit-9999")
    assert len(page.query_selector_all("table.long tr")) < 100
    page.fill("input[type=search]", "edit-1234")
    page.wait_for_selector("text=/^1 edits$/")
    page.click("td a")
    page.wait_for_selector("dd >> text=edit-1234")


def _many(file: Path, count: int, folder: Path) -> Path:
    """The memory with so many edits."""
    memory, random = memories.read(file), np.random.default_rng(0)
    masks = np.argsort(random.random((count, memory.D)), axis=1) < memory.k
    many = replace(
        memory,
        bank=pack(masks),
        owner=np.arange(count, dtype=np.int32),
        thresholds=np.full(count, 0.9, np.float32),
        edits=tuple(Entry(f"edit-{i}", i, {"id": f"edit-{i}"}) for i in range(count)),
        probes=(),
        digest=None,
    )
    memories.write(many, folder / "many.safetensors")
    return folder / "many.safetensors"


def test_markup_in_an_edit_is_text_and_no_script_runs(open_page, told):
    page = open_page("edits")
    page.wait_for_selector("table.long td")
    assert page.text_content("table.long td:nth-child(3)") == SCRIPT
    page.click("table.long td a")
    page.wait_for_selector("h2 mark")
    assert page.text_content("h2 mark") == SCRIPT
    page.click("li >> nth=0 >> a")  # ask the key
    assert page.input_value("textarea") == SCRIPT
    answers(page)
    assert page.query_selector("main img, main script") is None


def test_the_policy_stops_what_would_get_in_all_the_same(open_page):
    page = open_page(watched=False)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    assert page.evaluate(INJECT) == ["img-src", "require-trusted-types-for"]


# Puts a script and markup into the page as an attacker would; tells what stopped them.
INJECT = """async () => {
  const seen = [];
  addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
  const script = document.createElement("script");
  try { script.src = "data:text/javascript,alert(3)"; } catch { /* a plain text is refused */ }
  try { document.body.innerHTML = "<img src=x onerror=alert(4)>"; } catch { /* likewise */ }
  const image = new Image();
  image.src = "https://example.invalid/";
  await new Promise((done) => setTimeout(done, 200));
  return [...new Set(seen)].sort();
}"""


VIEWS = ("ask", "edits", "edits/a/edit-3", "memories", "now")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, told, faults, scheme):
    page = open_page(login=False, bypass_csp=True, color_scheme=scheme)
    found = faults(page)
    sign_in(page, API)
    for view in (*VIEWS, f"ask?{urlencode({'prompt': told[3]})}"):
        page.goto(page.url.split("#")[0] + f"#/{view}")
        page.wait_for_selector("nav a[aria-current]")
        page.wait_for_load_state("networkidle") if view != "now" else None
        found += [f"{view}: {fault}" for fault in faults(page)]
    assert found == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_never_scrolls_sideways(open_page, view):
    page = open_page(view, viewport={"width": 360, "height": 640})
    page.wait_for_selector("nav a[aria-current]")
    wide, seen = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= seen
