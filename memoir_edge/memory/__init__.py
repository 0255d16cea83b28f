"""The memory file: what a memory is, how it is written, read and refused. Its one home.

Knows nothing of models, devices or text. The specification is docs/memory-format.md. A file is
untrusted input: everything is checked before use, and each refusal has its own error.

`memory` says what a memory is, `schema` what its file holds, `checks` when it is sound, and `file`
writes and reads it.

    memory = from_dense(Wm, bank=bank, ...)         the editor's dense change, made sparse
    memory = write(memory, "facts.safetensors")     atomic; memory.digest is the file's SHA-256
    memory = read("facts.safetensors")              that memory, or one of these:

    MemoryFormatError
    ├── NotSafetensorsError     cut short, or no safetensors file at all
    ├── NotAMemoryError         a safetensors file without the metadata of a memory
    ├── VersionError            a format version that this reader does not know
    ├── DigestError             the bytes are not the ones that were written
    ├── LimitError              larger than the named limits
    ├── MissingTensorError      a tensor is not there
    ├── UnexpectedTensorError   a tensor that does not belong
    ├── DtypeError              a tensor of the wrong type
    ├── ShapeError              a tensor of the wrong shape
    ├── ColumnsError            columns out of range or not strictly increasing
    ├── MaskError               a mask or key of another weight, or with bits beyond its width
    ├── OwnerError              an owner that is no edit's row, or an edit without a key
    ├── TileError               a mask of no tile, or whose tiles begin at another site's
    ├── RouterError             codes that no router of this version makes
    ├── PermutationError        the permutation is not one
    ├── NotFiniteError          NaN or infinity
    ├── MetadataError           the JSON document is malformed
    ├── DisagreementError       the JSON document contradicts the tensors or itself
    └── FeatureError            a routing feature that this version cannot form
"""

from memoir_edge.memory.checks import (
    ROUTERS,
    validate,
)
from memoir_edge.memory.file import (
    DIGEST_KEY,
    DOCUMENT_KEY,
    FORMAT_KEY,
    from_bytes,
    read,
    to_bytes,
    unique,
    write,
)
from memoir_edge.memory.memory import (
    UNREACHABLE,
    Base,
    Codes,
    Entry,
    Memory,
    Probe,
    Router,
    Rows,
    by_codes,
    from_dense,
    no_codes,
    sparse,
    to_dense,
)
from memoir_edge.memory.refusals import (
    ColumnsError,
    DigestError,
    DisagreementError,
    DtypeError,
    FeatureError,
    LimitError,
    MaskError,
    MetadataError,
    MissingTensorError,
    NotAMemoryError,
    NotFiniteError,
    NotSafetensorsError,
    OwnerError,
    PermutationError,
    RouterError,
    ShapeError,
    TileError,
    UnexpectedTensorError,
    VersionError,
)

__all__ = [
    "DIGEST_KEY",
    "DOCUMENT_KEY",
    "FORMAT_KEY",
    "ROUTERS",
    "UNREACHABLE",
    "Base",
    "Codes",
    "ColumnsError",
    "DigestError",
    "DisagreementError",
    "DtypeError",
    "Entry",
    "FeatureError",
    "LimitError",
    "MaskError",
    "Memory",
    "MetadataError",
    "MissingTensorError",
    "NotAMemoryError",
    "NotFiniteError",
    "NotSafetensorsError",
    "OwnerError",
    "PermutationError",
    "Probe",
    "Router",
    "RouterError",
    "Rows",
    "ShapeError",
    "TileError",
    "UnexpectedTensorError",
    "VersionError",
    "by_codes",
    "from_bytes",
    "from_dense",
    "no_codes",
    "read",
    "sparse",
    "to_bytes",
    "to_dense",
    "unique",
    "validate",
    "write",
]
