"""`memoir-edge studio`: try edits in a page of this machine's browser, and keep those that hold."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from memoir_edge.cli.editors import about_of, open_editor
from memoir_edge.cli.extras import Routed, Torch, needs
from memoir_edge.cli.journals import former_of
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_apart
from memoir_edge.settings import Wishes

GRACE = 1  # seconds that a request gets at the end


def command(
    *,
    torch: Torch,
    out: Path = Path("studio.safetensors"),
    edits: Path = Path("edits.jsonl"),
    port: int = 8001,
    routed: Routed = Routed(),  # noqa: B008 - frozen
    wishes: Annotated[Wishes, Parameter(name="*", negative=())] = Wishes(),  # noqa: B008 - frozen
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Try edits in a page of the browser: see what is doubtful, train, ask, keep or throw away.

    Only this machine's browser is answered. What is kept is a line more of --edits, and goes into
    --out and its journal as `apply` writes them; what is thrown away leaves nothing behind. Ctrl-C
    ends.

    Args:
        out: The memory file; one that is there already is gone on from.
        edits: The file of edits, JSON lines.
        port: Port of 127.0.0.1 to listen on; 0 is a free one, which the log tells.
    """
    with needs("PyTorch and a web server", "edit,run,serve"):
        from memoir_edge.studio.app import HOSTS, PATH, create_app
        from memoir_edge.studio.files import Files
        from memoir_edge.studio.trial import Studio
        from memoir_edge_runtime.serve.logs import configure
        from memoir_edge_runtime.serve.process import listen

    check_apart(edits, out)
    with ExitStack() as opened:
        journal, former = former_of(out, None, output, opened, write=True)
        editor = open_editor(torch, routed, wishes, former, journal)
        files = Files(out, edits, journal, about_of(torch, routed))
        opened.enter_context(closing(files))
        configure()
        output.say(f"{editor.base.id}: open http://{HOSTS[0]}:{port}{PATH}, press Ctrl-C to stop")
        studio = opened.enter_context(closing(Studio(editor, files)))
        listen(create_app(studio), HOSTS[0], port, grace=GRACE)
    return 0
