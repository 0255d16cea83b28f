"""The page in a real browser, against a studio that trains the demo model."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from memoir_edge.edits import Edit, read
from memoir_edge.studio.app import create_app
from memoir_edge.studio.trial import Studio

SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.fixture
def url(studio: Studio) -> Iterator[str]:
    """Of a studio that listens."""
    config = uvicorn.Config(create_app(studio), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        socket.listen()  # who comes before the server does waits
        thread = threading.Thread(target=server.run, args=([socket],))
        thread.start()
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def open_page(new_page: Callable[..., Any], url: str) -> Callable[..., Any]:
    """Opens the page."""

    def open_page(**options: Any) -> Any:
        page = new_page(url, **options)
        page.goto(url)
        page.wait_for_selector("form")
        return page

    return open_page


def typed(page: Any, edit: Edit) -> None:
    page.fill("[name=prompt]", edit.prompt)
    page.fill("[name=target]", edit.target)


def trained(page: Any, edit: Edit) -> None:
    typed(page, edit)
    page.click("button >> text=/^Train$/")
    page.wait_for_selector("text=/^Keep$/")


def answers(page: Any, question: str) -> list[str]:
    page.fill("[name=question]", question)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".why")
    return [each.text_content() for each in page.query_selector_all(".answer")]


def test_an_edit_is_typed_trained_asked_and_kept(
    open_page: Callable[..., Any], studio: Studio, france: Edit
) -> None:
    page = open_page()
    assert "editing model" in page.text_content("#active")
    page.keyboard.press("/")  # to the prompt
    page.keyboard.type(france.prompt)
    page.fill("[name=target]", france.target)
    page.fill("[name=subject]", "France")
    page.click("text=/^Look$/")
    page.wait_for_selector("text=Nothing is doubtful about this edit")
    assert page.text_content("[aria-label='What is seen of the edit'] dd") == "France"
    page.keyboard.press("Control+Enter")  # trains
    page.wait_for_selector("text=/^Keep$/")
    assert "It holds." in page.text_content("[aria-label='The trial']")
    assert answers(page, france.prompt)[1] == france.target
    assert "reaches its threshold" in page.text_content(".why p")
    page.click("text=/^Keep$/")
    page.wait_for_selector("text=/^Kept: 1 edits$/")
    assert page.query_selector("text=/^Keep$/") is None
    assert [edit.target for edit in read(studio.files.edits)[0]] == [france.target]


def test_a_trial_outlives_the_tab_and_is_thrown_away(
    open_page: Callable[..., Any], studio: Studio, france: Edit
) -> None:
    trained(open_page(), france)
    page = open_page()
    page.click("text=/^Throw away$/")
    page.wait_for_selector("text=/^Keep$/", state="detached")
    base, edited = answers(page, france.prompt)
    assert base == edited != france.target
    assert not studio.files.memory.exists()


def test_bad_input_is_one_line_in_the_page(
    open_page: Callable[..., Any], studio: Studio, france: Edit
) -> None:
    page = open_page()
    long = "word " * studio.editor.base.context
    typed(page, Edit(prompt="{} is in", target="Asia", tags={}))
    for button, prompt, said in [("Look", "{} is in", "no subject"), ("Train", long, "context is")]:
        page.fill("[name=prompt]", prompt)
        page.click(f"button >> text=/^{button}$/")
        page.wait_for_selector(f"[role=alert]:has-text('{said}')")
    page.fill("[name=question]", long)
    page.click("button >> text=/^Ask$/")
    page.wait_for_selector(".results [role=alert]:has-text('context is')")
    assert studio.trial is None


def test_what_is_doubtful_is_said_before_training(
    open_page: Callable[..., Any], studio: Studio, france: Edit
) -> None:
    studio.train(france)
    studio.keep(france.id)
    page = open_page()
    typed(page, Edit(prompt=france.prompt, target="Oslo", tags={}))
    page.click("text=/^Look$/")
    page.wait_for_selector("li:has-text('gives way to')")


def test_markup_is_text(open_page: Callable[..., Any]) -> None:
    page = open_page()
    trained(page, Edit(prompt=SCRIPT, target="<b>Rome", tags={}))
    assert page.text_content("h2:has(mark)") == f"{SCRIPT} <b>Rome"
    assert page.query_selector("main img, main script") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(
    open_page: Callable[..., Any],
    studio: Studio,
    france: Edit,
    japan: Edit,
    faults: Any,
    scheme: str,
) -> None:
    studio.train(japan)
    studio.keep(japan.id)
    studio.train(france)
    page = open_page(bypass_csp=True, color_scheme=scheme)
    typed(page, france)
    page.fill("[name=subject]", "France")
    page.click("text=/^Look$/")
    page.click("summary:has-text('Near misses')")
    answers(page, france.prompt)
    assert faults(page) == []


def test_a_phone_never_scrolls_sideways(
    open_page: Callable[..., Any], studio: Studio, france: Edit
) -> None:
    studio.train(france)
    studio.keep(france.id)
    studio.train(Edit(prompt="Japan is in", target="Europe", id="japan", tags={}))
    page = open_page(viewport={"width": 360, "height": 640})
    page.wait_for_selector("text=/^Kept: 1 edits$/")
    wide, seen = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= seen
