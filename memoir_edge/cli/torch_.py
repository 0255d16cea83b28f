"""The way from a command to what needs torch; says what to install where that is missing."""

from types import ModuleType

from memoir_edge.errors import InputError


def editor_package() -> ModuleType:
    """`memoir_edge.editor`, with transformers kept quiet.

    Raises:
        InputError: torch or transformers is not installed.
    """
    try:
        from memoir_edge import editor
    except ImportError as error:
        raise InputError(
            f"this command needs PyTorch and transformers ({error.name} is missing)",
            hint='pip install "memoir-edge[edit]"',
        ) from error
    editor.quiet()
    return editor
