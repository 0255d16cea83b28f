"""The editor: MEMOIR on PyTorch, CPU or GPU. The one part of memoir_edge that imports torch.

base = load("path/to/model")
editor = Editor(base, choose(base))
outcomes = editor.apply(edits)
memory = editor.memory()
"""

from memoir_edge.editor.choice import Trial, sites_near, trials
from memoir_edge.editor.config import choose
from memoir_edge.editor.editor import Editor, Outcome, Watch
from memoir_edge.editor.live import thaw
from memoir_edge.editor.look import Foreseen, fitting, foresee, look_at, related, unmeasured
from memoir_edge.editor.model import BaseModel, load, quiet
from memoir_edge.editor.origin import nothing
from memoir_edge.editor.prompts import length, refuse_endless, refuse_too_long, refuse_unsaid
from memoir_edge.editor.recall import Edited, edited
from memoir_edge.editor.site import choose_site, find_site, structural_site, width
from memoir_edge.nearmiss import unrelated_prompts
from memoir_edge.settings import Settings, Wishes
from memoir_edge.sites import default_site

__all__ = [
    "BaseModel",
    "Edited",
    "Editor",
    "Foreseen",
    "Outcome",
    "Settings",
    "Trial",
    "Watch",
    "Wishes",
    "choose",
    "choose_site",
    "default_site",
    "edited",
    "find_site",
    "fitting",
    "foresee",
    "length",
    "load",
    "look_at",
    "nothing",
    "quiet",
    "refuse_endless",
    "refuse_too_long",
    "refuse_unsaid",
    "related",
    "sites_near",
    "structural_site",
    "thaw",
    "trials",
    "unmeasured",
    "unrelated_prompts",
    "width",
]
