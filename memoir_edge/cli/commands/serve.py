"""`memoir-edge serve`: an OpenAI-compatible server whose memories are swapped while it runs."""

import os
from pathlib import Path

from memoir_edge.cli.extras import needs
from memoir_edge.cli.output import Output
from memoir_edge.cli.sessions import open_session


def command(
    directory: Path,
    /,
    *,
    memory: list[Path] | None = None,
    watch: Path | None = None,
    memory_root: list[Path] | None = None,
    allow_origin: list[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    no_verify: bool = False,
    max_rows: int = 32,
    max_queue: int = 256,
    max_choices: int = 64,
    max_new_tokens: int = 1024,
    max_prompt_tokens: int | None = None,
    prefill_tokens: int = 256,
    prefix_mb: int = 256,
    max_body: int = 1_000_000,
    max_memories: int = 16,
    deadline: float = 120.0,
    drain: float = 30.0,
    threads: int | None = None,
    log_prompts: bool = False,
    traces: bool = False,
    console: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Serve an exported model with OpenAI's API, and swap memories while it answers.

    Keys come from the environment: MEMOIR_EDGE_ADMIN_KEY opens the routes below /admin, which are
    absent without it; MEMOIR_EDGE_API_KEY, where set, is asked for by all others but /health and
    /ready. SIGTERM ends the server when running requests are done. Logs are JSON lines on standard
    error.

    Args:
        directory: An export directory.
        memory: A memory to load at the start, FILE or NAME=FILE; requests call it base@NAME, by
            default the file's name up to its first dot. May be given several times, the first
            one answers by default.
        watch: A memory, FILE or NAME=FILE, to load as soon as the file is there and whenever it
            is replaced; it answers by default where no --memory is given.
        memory_root: A folder that administrators may load memories from; may be given several
            times.
        allow_origin: The origin of web pages whose scripts may ask, such as http://localhost:5173;
            may be given several times, "*" is every one.
        host: Address to listen on.
        port: Port to listen on; 0 is a free one, which the log tells.
        no_verify: Do not replay a memory's probes before it answers.
        max_rows: Most answers that are written at once.
        max_queue: Most answers that wait; more are refused with status 429.
        max_choices: Most answers of one request: prompts times n.
        max_new_tokens: Most tokens of an answer.
        max_prompt_tokens: Most tokens of a prompt; default the model's context.
        prefill_tokens: Most prompt tokens that are read between two tokens of the running answers.
        prefix_mb: Megabytes of prompts' beginnings that are kept for others that begin alike; 0
            keeps none.
        max_body: Most bytes of a request.
        max_memories: Most memories that are loaded at once.
        deadline: Seconds that a request may take, waiting included.
        drain: Seconds that running requests get when the server is stopped.
        threads: Of one operator of ONNX Runtime; default its own choice.
        log_prompts: Put prompts and answers into the log.
        traces: Send traces of OpenTelemetry, to where its OTEL_ variables in the environment say.
        console: Serve pages for a browser below /console; they ask for the same keys.
    """
    session = open_session(directory, threads=threads)
    with needs("more than the runtime", "run,serve"):
        from memoir_edge_runtime.serve.process import run
    from memoir_edge_runtime.serve.settings import ADMIN_KEY, API_KEY, Settings

    settings = Settings(
        memory_roots=tuple(memory_root or ()),
        watch=watch,
        verify=not no_verify,
        origins=tuple(allow_origin or ()),
        admin_key=os.environ.get(ADMIN_KEY) or None,
        api_key=os.environ.get(API_KEY) or None,
        max_rows=max_rows,
        max_queue=max_queue,
        prefill_tokens=prefill_tokens,
        prefix_mb=prefix_mb,
        max_choices=max_choices,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        max_body=max_body,
        max_memories=max_memories,
        deadline=deadline,
        drain=drain,
        log_prompts=log_prompts,
        traces=traces,
        console=console,
    )
    output.say(f"serving {directory}, press Ctrl-C to stop")
    run(session, settings, memories=tuple(memory or ()), host=host, port=port)
    return 0
