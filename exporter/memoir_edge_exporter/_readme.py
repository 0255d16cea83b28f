"""The README of an export directory: what it is and how to run it, from several languages."""

from memoir_edge import sidecar

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

_TEXT = """\
# {model_id}, with ports for memories

`model.onnx` is the base model as long as nothing else is fed. A memory file of memoir-edge goes in
through the optional inputs `memory.*`, and changes what `{site}` (D = {D}, d = {d}) gives for the
prompts that its edits answer.

```python
# in a checkout of memoir-edge: pip install -c constraints.txt . "./runtime[cpu]"
from memoir_edge_runtime import Options, Session

session = Session(".", memory="facts.safetensors")
print(session.generate("...", Options(max_new_tokens=16))[0].text, session.ops)
```

The graph runs on any ONNX Runtime: its two ops, Route and Recall, come along as functions. Over
many edits they are a hundred times faster natively, by the library in the package above. `Session`
registers it by itself. For others, this says where it is:
`python -c "from memoir_edge_runtime import ops_library; print(ops_library('cpu'))"`

{register}"""


def text(made: sidecar.Sidecar) -> str:
    """The file's text."""
    return _TEXT.format(
        model_id=made.model_id, site=made.site, D=made.D, d=made.d, register=REGISTER
    )
