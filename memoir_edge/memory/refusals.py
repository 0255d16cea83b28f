"""Why a file is no memory: an error for each reason."""

from memoir_edge.errors import MemoryFormatError

REMAKE = "made by something else, or damaged on its way: fetch the file or make it again"


class NotSafetensorsError(MemoryFormatError):
    """Cut short, or no safetensors file at all."""


class NotAMemoryError(MemoryFormatError):
    """A safetensors file without the metadata of a memory."""


class VersionError(MemoryFormatError):
    """A format version that this reader does not know."""


class DigestError(MemoryFormatError):
    """The bytes are not the ones that were written."""


class LimitError(MemoryFormatError):
    """Larger than the named limits."""


class MissingTensorError(MemoryFormatError):
    """A tensor is not there."""


class UnexpectedTensorError(MemoryFormatError):
    """A tensor that does not belong."""


class DtypeError(MemoryFormatError):
    """A tensor of the wrong type."""


class ShapeError(MemoryFormatError):
    """A tensor of the wrong shape."""


class ColumnsError(MemoryFormatError):
    """Columns out of range or not strictly increasing."""


class MaskError(MemoryFormatError):
    """A mask or key of another weight, or with bits beyond its width."""


class OwnerError(MemoryFormatError):
    """An owner that is no edit's row, or an edit without a key."""


class TileError(MemoryFormatError):
    """A mask of no tile, or whose tiles begin at another site's."""


class RouterError(MemoryFormatError):
    """Codes that no router of this version makes."""


class PermutationError(MemoryFormatError):
    """The permutation is not one."""


class NotFiniteError(MemoryFormatError):
    """NaN or infinity."""


class MetadataError(MemoryFormatError):
    """The JSON document is malformed."""


class DisagreementError(MemoryFormatError):
    """The JSON document contradicts the tensors or itself."""


class FeatureError(MemoryFormatError):
    """A routing feature that this version cannot form."""
