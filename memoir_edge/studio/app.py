"""The studio as an ASGI application: a page, and what it asks.

Knows nothing of training. It is for the browser of this machine alone: other names of the host are
refused, and a change comes as JSON, which pages of other sites cannot send.
"""

import json
import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.middleware.trustedhost import TrustedHostMiddleware

from memoir_edge.edits import Edit, from_record
from memoir_edge.errors import InputError
from memoir_edge.studio.trial import Asked, Studio, Trial
from memoir_edge_runtime import Routing
from memoir_edge_runtime.serve import pages
from memoir_edge_runtime.serve.access import Access
from memoir_edge_runtime.serve.app import tell_errors
from memoir_edge_runtime.serve.errors import refusal
from memoir_edge_runtime.serve.logs import log
from memoir_edge_runtime.serve.replies import explanation, memory
from memoir_edge_runtime.serve.settings import Settings

HOSTS = ("127.0.0.1", "localhost")
PATH = "/studio"
DEADLINE = 3600.0  # seconds of one training
SHOWN = 20  # kept edits
FILES = pages.read(files("memoir_edge.studio").joinpath("page"))
routes = APIRouter(prefix=f"/v1{PATH}")
Text = Annotated[str, StringConstraints(max_length=100_000)]


class Strict(BaseModel):
    """A body that holds nothing unknown."""

    model_config = ConfigDict(extra="forbid")


class Wanted(Strict):
    """An edit to be looked at or trained."""

    prompt: Text
    target: Text
    subject: Text | None = None

    def edit(self) -> Edit:
        """It, as a file of edits has it.

        Raises:
            InputError: It is none.
        """
        try:
            return from_record(self.model_dump())
        except ValueError as error:
            raise InputError(str(error)) from error


class Question(Strict):
    """What is asked."""

    prompt: Annotated[Text, StringConstraints(min_length=1)]
    chat: bool = False


class Settled(Strict):
    """What becomes of the trial; in another tab another one may have taken its place."""

    id: Text
    keep: bool


def create_app(studio: Studio) -> FastAPI:
    """The studio as an ASGI application."""
    app = FastAPI(openapi_url=None)
    app.state.studio = studio
    app.include_router(routes)
    app.include_router(pages.routes)  # the modules that both pages are made of
    app.include_router(pages.pages(PATH, FILES))
    app.add_api_route("/", lambda: RedirectResponse(PATH))
    app.add_middleware(Access, settings=Settings(deadline=DEADLINE))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    tell_errors(app)
    return app


def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


@routes.get("")
def state(request: Request) -> dict[str, Any]:
    """What is edited, what is kept, the last ones first, and the trial."""
    studio = _studio(request)
    editor, files, held = studio.editor, studio.files, studio.held
    return {
        "model": editor.base.id,
        "chat": bool(editor.base.tokenizer.chat_template),
        "steps": editor.settings.steps,
        "memory": str(files.memory),
        "edits": str(files.edits),
        "kept": len(held),
        "held": [_named(edit) for edit in held[: -SHOWN - 1 : -1]],
        "trial": studio.trial and _tried(studio.trial),
    }


@routes.post("/look")
def look(request: Request, wanted: Wanted) -> dict[str, Any]:
    """What is doubtful about an edit, and what would be made of it."""
    findings, warnings, foreseen = _studio(request).look(wanted.edit())
    return {"findings": list(map(asdict, findings)), "warnings": warnings, **asdict(foreseen)}


@routes.post("/train")
def train(request: Request, wanted: Wanted) -> Response:
    """Server-sent events: each step that is measured, and at last the trial."""
    events = _training(_studio(request), wanted.edit())
    return StreamingResponse(events, media_type="text/event-stream")


def _training(studio: Studio, edit: Edit) -> Iterator[str]:
    """The events of a training that goes on to its end, whoever listens."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()

    def work() -> None:
        try:
            trial = studio.train(
                edit, lambda what, step, loss: told.put({"what": what, "step": step, "loss": loss})
            )
            told.put({"trial": _tried(trial)})
        except Exception as error:  # whatever it was, the page must not wait for ever
            log(logging.ERROR, "training", error=f"{type(error).__name__}: {error}")
            told.put(refusal(error).document)

    threading.Thread(target=work, name="train", daemon=True).start()
    document: dict[str, Any] = {}
    while not document.keys() & {"trial", "error"}:
        document = told.get()
        yield f"data: {json.dumps(document)}\n\n"


@routes.post("/ask")
def ask(request: Request, question: Question) -> dict[str, Any]:
    """Both answers to a prompt, and why."""
    asked = _studio(request).ask(question.prompt, chat=question.chat)
    routing = _routing(asked)
    why = {"memory": memory(routing), "explanation": explanation(routing)}
    return {"base": asked.base, "edited": asked.edited, **why}


@routes.post("/settle")
def settle(request: Request, settled: Settled) -> dict[str, Any]:
    """Keep the trial or throw it away; the state after that."""
    studio = _studio(request)
    (studio.keep if settled.keep else studio.drop)(settled.id)
    return state(request)


def _named(edit: Edit) -> dict[str, Any]:
    return {"id": edit.id, "prompt": edit.prompt, "target": edit.target}


def _tried(trial: Trial) -> dict[str, Any]:
    outcome, audit, id = trial.outcome, trial.audit, trial.edit.id
    return {
        **_named(trial.edit),
        "before": outcome.before,
        "after": outcome.after.text,
        "loss": outcome.loss,
        "steps": outcome.steps,
        "seconds": trial.seconds,
        "tally": audit.tally.get(id, {}),
        "wrong": [one._asdict() for one in audit.wrong],
        "failed": audit.failed,
    }


def _routing(asked: Asked) -> Routing:
    """What the router decided, as a server tells it; the memory has no digest yet."""
    key = asked.key
    if key is None:
        return Routing(digest="")
    return Routing(
        edit=asked.edit,
        overlap=asked.overlap,
        threshold=key.threshold,
        candidate=key.edit,
        digest="",
        guard=key.edit is None,
        key=key.text,
    )
