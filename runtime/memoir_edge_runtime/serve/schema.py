"""Requests and replies as pydantic models: what is taken, what is refused, what the docs show.

Knows nothing of how a request is answered. An option that this server does not have is refused, not
ignored: whoever sends it wants something that would not happen. A value that asks for nothing is
taken under any name: clients send all their fields, and replies of servers as history.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Name = Annotated[str, StringConstraints(max_length=200)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stops = Annotated[
    Stop | Annotated[list[Stop], Field(max_length=16, fail_fast=True)] | None,
    BeforeValidator(lambda given: _without_empty(given)),
]
# Lists stop at their first fault: a body may hold half a million items that are wrong.
_Several = Field(min_length=1, max_length=4096, fail_fast=True)
Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1, fail_fast=True)]
Prompts = Text | Annotated[list[Text], _Several] | Ids | Annotated[list[Ids], _Several]


_DEFAULT_COMPLETION = 16  # tokens
Given = str | list[str] | list[int] | list[list[int]]  # what `Prompts` are
# Says what is worth keeping: what is shared is found without being told.
Cached = dict[str, Any] | None


# Options of other servers, with the value that asks for what is done anyway.
_DONE: dict[str, Any] = {
    "add_generation_prompt": True, "add_special_tokens": True, "cache_prompt": True,
    "detokenize": True, "include_reasoning": True, "spaces_between_special_tokens": True,
    "dry_multiplier": 0, "mirostat": 0, "priority": 0, "xtc_probability": 0,
    "repeat_penalty": 1, "tfs_z": 1, "typical_p": 1,
    "reasoning_effort": "none", "verbosity": "medium", "thinking": {"type": "disabled"},
}  # fmt: skip
# Of these, false asks for something else.
_ON = frozenset({"add_generation_prompt", "add_special_tokens", "detokenize"})
# An empty object of these asks for something, too: any JSON, or a search.
_OBJECTS = frozenset({"guided_json", "json_schema", "web_search_options"})
_DEEP = 32  # levels in which nothing is looked for


def _without_empty(given: Any) -> Any:
    """Stop strings without those that would stop nothing."""
    if isinstance(given, list):
        return [each for each in given if each not in ("", None)]
    return given or None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Sent(_Strict):
    """What clients send: unknown fields that hold nothing are left out."""

    _done: ClassVar[dict[str, Any]] = _DONE

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        return {
            name: value
            for name, value in sent.items()
            if name in cls.model_fields or not _asks_nothing(name, value, cls._done)
        }


def _asks_nothing(name: str, value: Any, done: dict[str, Any]) -> bool:
    if name in done and bool(value == done[name]):
        return True
    asks = (value is False and name in _ON) or (isinstance(value, dict) and name in _OBJECTS)
    return not asks and _holds_nothing(value)


def _holds_nothing(value: Any, depth: int = _DEEP) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_holds_nothing(each, depth - 1) for each in value.values())
    return value in (None, "", []) or value is False


class StreamOptions(_Sent):
    """What a stream says at its end."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = None  # pads what is sent; nothing is to be hidden here


class _Asked(_Sent):
    model: Name | None = Field(
        None, description="`base`, `base@NAME`, or `default` for the active memory"
    )


class _Generation(_Asked):
    """What both ways of asking share."""

    max_tokens: int | None = Field(
        None, ge=-1, description="at most the server's own limit; 0 writes nothing, -1 sets none"
    )
    temperature: float | None = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(
        1.0, ge=0, le=1, allow_inf_nan=False, description="0 leaves the likeliest token"
    )
    top_k: int | None = Field(0, ge=-1, le=1_000_000, description="0 and -1 cut nothing")
    n: int | None = Field(1, ge=1, le=1024)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops = None
    ignore_eos: bool | None = Field(False, description="go on to max_tokens, to measure by")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    deadline: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds until the request may fail"
    )
    # Taken where they ask for nothing, or for what is done anyway.
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    repetition_penalty: Literal[1] | None = None
    length_penalty: Literal[1] | None = None
    min_p: Literal[0] | None = None
    min_tokens: Literal[0] | None = None
    skip_special_tokens: Literal[True] | None = None
    service_tier: Literal["auto", "default"] | None = None
    response_format: "ResponseFormat | None" = None
    # About the client, not the answer.
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    cache_control: Cached = None
    metadata: dict[str, Any] | None = None

    def room(self) -> int | None:
        """Most tokens of an answer, where the request says so."""
        return None if self.max_tokens == -1 else self.max_tokens


class CompletionRequest(_Generation):
    """`POST /v1/completions`."""

    echo: bool | None = Field(False, description="begin each answer with its prompt")
    prompt: Prompts = Field(description="a text, several, token ids, or several lists of these")
    logprobs: Annotated[
        int | None, BeforeValidator(lambda given: None if given is False else given)
    ] = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1, description="as many as n: none is thrown away")

    def room(self) -> int | None:
        """Most tokens of an answer; without a word of it as many as OpenAI's."""
        return _DEFAULT_COMPLETION if self.max_tokens is None else super().room()


class Part(_Sent):
    """A piece of a message; a refusal in a history is what was said."""

    type: Literal["text"]
    text: Text
    cache_control: Cached = None

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, sent: Any) -> Any:
        if isinstance(sent, str):
            return {"type": "text", "text": sent}
        if isinstance(sent, dict) and sent.get("type") in ("input_text", "output_text"):
            return sent | {"type": "text"}
        if isinstance(sent, dict) and sent.get("type") == "refusal" and "refusal" in sent:
            rest = {name: value for name, value in sent.items() if name != "refusal"}
            return rest | {"type": "text", "text": sent["refusal"]}
        return sent


class ToolCall(_Sent):
    """A call that the assistant asked for."""

    id: Text | None = None
    type: Literal["function"] | None = None
    function: dict[str, Any]


class Message(_Sent):
    """One turn of a conversation."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    type: Literal["text", "message"] | None = None  # as some clients mark every turn
    content: Text | Annotated[list[Part], Field(max_length=4096, fail_fast=True)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=1024, fail_fast=True)] | None = None
    tool_call_id: Text | None = None
    reasoning_content: Text | None = Field(None, description="for a chat template that reads it")
    refusal: Text | None = Field(None, description="what was said, where there is no content")
    id: Text | None = None  # clients count their messages by it
    cache_control: Cached = None


Messages = Annotated[list[Message], _Several]


class ResponseFormat(_Sent):
    """The form of an answer: none is enforced."""

    type: Literal["text"]


class Tool(_Sent):
    """A function that a chat template tells the model of."""

    type: Literal["function"]
    function: dict[str, Any]
    cache_control: Cached = None


class ChatRequest(_Generation):
    """`POST /v1/chat/completions`."""

    # The chat template writes the special tokens, and no others are added.
    _done: ClassVar[dict[str, Any]] = _DONE | {"add_special_tokens": False}

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=-1, description="as max_tokens")
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Tool], Field(max_length=1024, fail_fast=True)] | None = Field(
        None, description="for a chat template that takes them"
    )
    tool_choice: Literal["none", "auto"] | None = Field(
        None, description="none: the template is told of no tools"
    )
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = Field(
        None, description="further variables of the chat template"
    )
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    function_call: Literal["none", "auto"] | None = None

    def room(self) -> int | None:
        """Most tokens of an answer, where the request says so."""
        later = self.max_completion_tokens
        return super().room() if later is None else None if later == -1 else later


class RouteRequest(_Asked):
    """`POST /v1/route`: one of the three."""

    prompt: Prompts | None = None
    messages: Messages | None = Field(None, description="a conversation")
    conversations: Annotated[list[Messages], _Several] | None = Field(None, description="several")


class LoadRequest(_Strict):
    """`POST /admin/memories`."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    name: Name | None = Field(None, description="default: the file's name up to its first dot")
    activate: bool = Field(True, description="answer with it by default")
    verify: bool = Field(True, description="replay its probes before anything changes")
    digest: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 that the file must have"
    )


# --- Replies -------------------------------------------------------------------------------------


class MemoryReply(_Strict):
    """What was decided; `edit` is the one that fired, `candidate` the nearest."""

    digest: str | None
    edit: str | None
    overlap: float
    threshold: float | None
    candidate: str | None
    guard: bool = Field(description="the nearest key is a guard: the base model answers")
    key: str | None = Field(description="text of the nearest key, where the memory holds texts")
    cut: bool = Field(description="the prompt was longer than the router reads: its end decided")


class Usage(_Strict):
    """Tokens of a request; a prompt counts once, however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Choice(_Strict):
    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]
    memory: MemoryReply


class CompletionChoice(_Choice):
    """One answer."""

    text: str


class ChatAnswer(_Strict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Choice):
    """One answer."""

    message: ChatAnswer


class _Reply(_Strict):
    id: str
    created: int
    model: str
    usage: Usage
    memory: MemoryReply = Field(description="of the first choice")
    max_tokens: int | None = Field(
        None, description="the server's limit, where more tokens of an answer were asked for"
    )


class CompletionReply(_Reply):
    """The answer to `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class ChatReply(_Reply):
    """The answer to `POST /v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Route(_Strict):
    """Where one prompt goes."""

    index: int
    prompt_tokens: int
    memory: MemoryReply
    explanation: str


class RouteReply(_Strict):
    """The answer to `POST /v1/route`."""

    model: str
    routes: list[Route]


class ModelReply(_Strict):
    """One model name that requests may use."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    digest: str | None
    active: bool


class ModelList(_Strict):
    """The answer to `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelReply]


class EditReply(_Strict):
    """One edit, and its use since the server started; times are Unix seconds."""

    id: str
    prompt: str | None = Field(description="null where the memory withholds its records")
    target: str | None
    source: str | None
    valid_from: str | None
    valid_to: str | None
    fires: int
    last_fired: int | None
    near_misses: int = Field(description="answers of the base model that nearly reached it")
    last_near_miss: int | None


class EditDetail(EditReply):
    """The answer to `GET /v1/memories/NAME/edits/ID`."""

    threshold: float = Field(description="of the key that its own prompt is")
    keys: list[Any] = Field(description="texts that reach it, where the memory holds them")
    guards: list[Any] = Field(description="texts that its record says must not")
    record: dict[str, Any] | None
    probes: int = Field(description="of this edit that the memory keeps")
    replayed: int = Field(description="probes of the memory that held when it was loaded; 0: none")
    evaluation: dict[str, Any] = Field(description="of all edits, when the memory was made")
    history: list[dict[str, Any]] | None = Field(
        description="steps of the journal beside the memory's file; null where it tells nothing"
    )
    history_unknown: str | None = Field(description="why the journal tells nothing")


class EditList(_Strict):
    """The answer to `GET /v1/memories/NAME/edits`."""

    object: Literal["list"]
    model: str
    digest: str | None
    total: int = Field(description="edits that the query finds; `data` holds `limit` of them")
    data: list[EditReply]


class LoadedReply(_Strict):
    """One loaded memory."""

    name: str
    model: str
    digest: str | None
    file: str | None
    edits: int
    probes: int
    active: bool


class LoadedList(_Strict):
    """The answer to `GET /admin/memories`."""

    memories: list[LoadedReply]


class HealthReply(_Strict):
    """The answer to `GET /health`."""

    status: str


class ReadyReply(HealthReply):
    """The answer to `GET /ready`: also what answers by default."""

    model: str
    digest: str | None
    waiting_for: str | None = Field(
        None, description="the model whose file is not there yet (--watch), if there is one"
    )


class ErrorDetail(_Strict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(_Strict):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail
