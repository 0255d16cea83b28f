"""The README of an export directory: what it is and how to run it, from several languages."""

import json
from collections.abc import Mapping, Sequence

from memoir_edge import sidecar
from memoir_edge.ports import Kind

NAME = "README.md"

# How the native ops are registered; docs/ops.md shows the same.
REGISTER = """\
```cpp
// C++
Ort::SessionOptions options;
options.RegisterCustomOpsLibrary(ORT_TSTR("libmemoir_edge_ops.so"));
Ort::Session session(env, ORT_TSTR("model.onnx"), options);
```

```csharp
// C#
var options = new SessionOptions();
options.RegisterCustomOpLibrary("libmemoir_edge_ops.so");
using var session = new InferenceSession("model.onnx", options);
```

```
# Triton, config.pbtxt of a model of the ONNX Runtime backend
model_operations { op_library_filename: "/models/ops/libmemoir_edge_ops.so" }
```
"""

_NOTHING_FED = "`model.onnx` is the base model as long as nothing else is fed."
_STATE = """\
The graph itself carries which edit answers, as {}. A run of several tokens is a prompt and decides;
a run of one token goes on. So {} without knowing of memories."""

# By kind of ports: the graph without a memory, what its inputs are, and which hosts take it.
_KINDS: dict[Kind, tuple[str, str, str]] = {
    "optional": (
        _NOTHING_FED,
        "optional",
        """\
ONNX Runtime in Python, C, C++ and C# takes these inputs. onnxruntime-node, onnxruntime-web and Java
do not know inputs that have a default: node answers as the base model **without saying so**. For
them export with `--ports required`. onnxruntime-genai, optimum and other hosts with a loop of their
own do not hand `memory.route` from run to run: `memoir-edge package genai DIR` makes a folder for
onnxruntime-genai of this one, and for others export with `--ports state`.""",
    ),
    "required": (
        "`model.onnx` runs only when all its inputs are fed; the base model is the empty memory.",
        "required",
        """\
Every host takes these inputs, JavaScript and Java among them. A host with a loop of its own, such
as optimum, does not feed them: for it export with `--ports state`, and for onnxruntime-genai
without `--ports`, then `memoir-edge package genai DIR`.""",
    ),
    "recurrent": (
        _NOTHING_FED,
        "optional",
        _STATE.format(
            "a recurrent state of one more layer",
            "onnxruntime-genai's generator serves\n"
            "what `memoir-edge package genai DIR` makes of it,",
        ),
    ),
    "cache": (
        _NOTHING_FED,
        "optional",
        _STATE.format(
            "one more layer of the cache of keys and values (`config.json` counts it)",
            "any host that hands the cache from run to run serves it,\noptimum's"
            " `ORTModelForCausalLM` among them,",
        ),
    ),
}

# Of an encoder-decoder, whatever its ports.
_TWO = """\
`encoder_model.onnx` reads the prompts. What it gives, and the prompts' attention mask as
`encoder_attention_mask`, `model.onnx` takes at every step; it begins with the token that
`config.json` calls `decoder_start_token_id`, and decides by that which edit answers. `Session` and
`memoir-edge serve` run both; hosts with a loop of their own know no memories here."""

_LANGUAGE = """\
It is the language model of a vision-language model, and reads text; what sees is not here."""

_EMBEDS = """\
`inputs_embeds` `[B, T, width]`, float32, is read in place of the tokens wherever it is a number;
NaN leaves the token. By it a host that runs the graph itself shows an image: it feeds what the
model's vision tower and projector make of it, in the places of the image's tokens, and
`memory.route` as the question alone decides it. `Session` and `memoir-edge serve` feed no
images."""

_TEXT = """\
# {model_id}, with ports for memories

{fed} A memory file of memoir-edge goes in
through the {inputs} inputs `memory.*`, and changes what `{site}` (D = {D}, d = {d}) gives for the
prompts that its edits answer.

{hosts}

```python
# in a checkout of memoir-edge: pip install -c constraints.txt . "./runtime[cpu]"
from memoir_edge_runtime import Options, Session

session = Session(".", memory="facts.safetensors")
print(session.generate("...", Options(max_new_tokens=16))[0].text, session.ops)
```

ONNX Runtime needs no library for it: its two ops, Route and Recall, come along as functions. Over
many edits they are a hundred times faster natively, by the library in the package above. `Session`
registers it by itself. For others, this says where it is:
`python -c "from memoir_edge_runtime import ops_library; print(ops_library('cpu'))"`

{register}"""


def text(
    made: sidecar.Sidecar, *, two: bool = False, part: bool = False, embeds: bool = False
) -> str:
    """The file's text.

    Args:
        made: What the export was.
        two: An encoder's graph stands beside the decoder's.
        part: It is the language model of a larger one.
        embeds: It takes vectors in place of tokens.
    """
    fed, inputs, hosts = _KINDS[made.kind]
    hosts = _TWO if two else hosts
    hosts = "\n\n".join([hosts, *([_LANGUAGE] if part else []), *([_EMBEDS] if embeds else [])])
    return _TEXT.format(
        model_id=made.model_id, site="` and `".join(made.sites), D=made.D, d=made.d,
        register=REGISTER, fed=fed, inputs=inputs, hosts=hosts,
    )  # fmt: skip


_GENAI = """\
# {model_id} for onnxruntime-genai, with memories as adapters

The graph carries which edit answers, as the recurrent state of one more layer: a prompt decides,
and the tokens after it go on. Without an adapter it is the base model. {listed}

```python
{code}
```

In a further turn the tokens that are appended decide anew, unless they are a single one. The rows
of a batch decide each for itself. `generator.rewind_to(0)` begins anew; onnxruntime-genai rewinds a
state to no other place.
"""

# Of a package with a router.
_FED = """
`memory.route` must be fed here, one number a row: what the router says of a memory whose keys are
codes, 0 to let the graph decide by itself, -1 for the base model. It holds for the whole generator.
"""

_GENAI_CODE = """\
{imports}

model = og.Model(".")
tokenizer = og.Tokenizer(model)
{opened}params = og.GeneratorParams(model)
params.set_search_options(max_length=64, do_sample=False)
generator = og.Generator(model, params)
{given}generator.append_tokens({ids})
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))"""

_GENAI_IMPORT = "import onnxruntime_genai as og"
_OPENED = """\
memories = og.Adapters(model)
memories.load({adapter}, {name})
"""
_ACTIVE = """\
generator.set_active_adapter(memories, {name})  # leave it out: the base model answers
"""
_KEPT = """\
generator.set_model_input("memory.route", route)  # keeps no copy: keep the array
"""

# Where the route is fed: the imports, what opens the router, and the route.
_ROUTED = (
    f"""\
from pathlib import Path

{_GENAI_IMPORT}
from memoir_edge import memory
from memoir_edge_runtime import Router""",
    """\
router = Router(Path("router"))  # what is asked decides which edit answers
keys = router.place(memory.read(Path({keys})).codes)
""",
    'route = router.decide(["..."], keys).routes.route.astype("int64")\n',
)
_UNROUTED = (
    f"import numpy as np\n{_GENAI_IMPORT}",
    "",
    'route = np.array([0], "int64")  # the graph decides\n',
)


def genai(made: sidecar.Sidecar, memories: Mapping[str, bool], begin: Sequence[int] = ()) -> str:
    """The text of a package for onnxruntime-genai.

    Args:
        made: What the export was.
        memories: The adapters' names, and whether the router routes each.
        begin: Ids that every prompt begins with, and that genai's tokenizer leaves out.
    """
    listed = f"Adapters here: {', '.join(memories)}." if memories else "There is no adapter here."
    # With a router, the lines are those for a memory that it routes, if there is one.
    name = max(memories, key=lambda name: memories[name], default=None)
    fed = made.router is not None
    code = _genai_code(name, fed=fed, routed=name is not None and memories[name], begin=begin)
    text = _GENAI.format(model_id=made.model_id, listed=listed, code=code)
    return text + (_FED if fed else "")


def _genai_code(name: str | None, *, fed: bool, routed: bool, begin: Sequence[int]) -> str:
    """Lines that answer a prompt, with an adapter if it has a name."""
    imports, opened, route = _ROUTED if routed else _UNROUTED
    if not fed:
        imports = _GENAI_IMPORT
    given = route + _KEPT if fed else ""
    if name is not None:
        opened, given = _OPENED + opened, _ACTIVE + given
    ids = 'tokenizer.encode("...")'
    if begin:
        ids = f"[{', '.join(map(str, begin))}, *{ids}]"
    # JSON writes a string as Python does, whatever stands in it.
    files = {"name": name, "adapter": f"{name}.onnx_adapter", "keys": f"{name}.safetensors"}
    said = {what: json.dumps(file, ensure_ascii=False) for what, file in files.items()}
    return _GENAI_CODE.format(
        imports=imports, opened=opened.format(**said), given=given.format(**said), ids=ids
    )
