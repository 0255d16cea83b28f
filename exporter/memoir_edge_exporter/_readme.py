"""The README of an export directory, and of each package: what it is and how to run it."""

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
own do not hand `memory.route` from run to run: `memoir-edge package genai DIR --out NEW` makes a
folder for onnxruntime-genai of this one, and for others export with `--ports state`.""",
    ),
    "required": (
        "`model.onnx` runs only when all its inputs are fed; the base model is the empty memory.",
        "required",
        """\
Every host takes these inputs, JavaScript and Java among them. A host with a loop of its own, such
as optimum, does not feed them: for it export with `--ports state`, and for onnxruntime-genai
without `--ports`, then `memoir-edge package genai DIR --out NEW`.""",
    ),
    "recurrent": (
        _NOTHING_FED,
        "optional",
        _STATE.format(
            "a recurrent state of one more layer",
            "onnxruntime-genai's generator serves\n"
            "what `memoir-edge package genai DIR --out NEW` makes of it,",
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
codes, 0 to let the graph decide by itself, -1 for the base model. Without an adapter the graph has
none of the rows that a router names: feed -1. It holds for the whole generator.
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
generator.set_active_adapter(memories, {name})  # {without}: the base model answers
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
    files = {"name": name, "adapter": f"{name}.onnx_adapter", "keys": f"{name}.safetensors"}
    said = {what: _string(f"{file}") for what, file in files.items()}
    said["without"] = f"leave it out{', and feed -1' if routed else ''}"
    return _GENAI_CODE.format(
        imports=imports, opened=opened.format(**said), given=given.format(**said), ids=ids
    )


def _string(text: str) -> str:
    """As Python and JavaScript write it, and JSON."""
    return json.dumps(text, ensure_ascii=False)


_OPTIMUM = """\
# {model_id}, edited, for optimum and transformers.js

`onnx/model.onnx` holds the memory of `{memory}`. It carries which edit answers in
one more layer of its cache (`config.json` counts it): a host that hands the cache from run to run
answers edited, by no code of memoir-edge. It takes no other memory; another is another folder.

```python
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = ORTModelForCausalLM.from_pretrained(".")
asked = tokenizer("...", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**asked, max_new_tokens=16)[0]))
```
"""


def optimum(made: sidecar.Sidecar, memory: str) -> str:
    """The text of a package for optimum, which holds the memory of a file."""
    return _OPTIMUM.format(model_id=made.model_id, memory=memory)


_WEB = """\
# {model_id} for JavaScript, with memories to swap

The graphs in `onnx` ({graphs}) take memories through required inputs, which the npm package
memoir-edge feeds: `npm install PATH/js` of a checkout of memoir-edge, whose `docs/javascript.md`
says more. {listed}

```javascript
// node, in this folder; a browser fetches the files
import {{ readFile }} from "node:fs/promises";
import {{ env, pipeline }} from "@huggingface/transformers";
import {{ edit }} from "memoir-edge";
{imports}
const made = JSON.parse(await readFile("memoir_edge.json", "utf-8"));
{router}env.localModelPath = "/";
const generator = await pipeline("text-generation", process.cwd(), {{ dtype: "{dtype}" }});
const edited = edit(generator, {{ {options} }});
{swapped}const [answer] = await edited.generate("...", {{ max_new_tokens: 16 }});
console.log(answer.generated_text, answer.routing.edit); // null: the base model
```
"""

_ROUTER_IMPORTS = """\
import ort from "onnxruntime-node";
import { Tokenizer } from "@huggingface/tokenizers";
import { Router } from "memoir-edge";
"""
_ROUTER_OPENED = """\
const read = JSON.parse(await readFile("router/tokenizer.json", "utf-8"));
const tokenizer = new Tokenizer(read, {});
const router = new Router({
  ort,
  encoder: await ort.InferenceSession.create("router/router.onnx"),
  route: await ort.InferenceSession.create("router/route.onnx"),
  tokenize: (text) => tokenizer.encode(text).ids,
  vocabulary: read.model.vocab,
  made: made.router,
});
"""
# By the end of a graph's name what transformers.js calls its precision.
_DTYPES = {"": "fp32", "_fp16": "fp16", "_quantized": "q8", "_q4": "q4", "_q4f16": "q4f16"}


def web(made: sidecar.Sidecar, graphs: Sequence[str], memories: Mapping[str, bool]) -> str:
    """The text of a package for JavaScript.

    Args:
        made: What the export was.
        graphs: The graphs' names; the lines run the first.
        memories: The memories' files, and whether the router routes each.
    """
    listed = f"Memories here: {', '.join(memories)}." if memories else "There is no memory here."
    file = next(iter(memories), None)
    routed = file is not None and memories[file]
    swapped = "" if file is None else f"await edited.swap(await readFile({_string(file)}));\n"
    return _WEB.format(
        model_id=made.model_id, listed=listed, graphs=", ".join(graphs), swapped=swapped,
        dtype=_DTYPES[graphs[0].removesuffix(".onnx").removeprefix("model")],
        imports=_ROUTER_IMPORTS if routed else "", router=_ROUTER_OPENED if routed else "",
        options="made, router" if routed else "made",
    )  # fmt: skip
