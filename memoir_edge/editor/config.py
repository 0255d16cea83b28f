"""The settings for a model at hand: its site found, the rest by its architecture and the wishes."""

from memoir_edge.editor.model import BaseModel
from memoir_edge.editor.site import choose_site, find_sites, in_order, width
from memoir_edge.memory import Memory
from memoir_edge.settings import Settings, Wishes, settle
from memoir_edge.sites import paths_of


def choose(
    base: BaseModel,
    wishes: Wishes | None = None,
    former: Memory | None = None,
    *,
    coded: bool = False,
) -> Settings:
    """Fill what the user left open.

    Args:
        base: The model.
        wishes: What the user asks for; default nothing.
        former: The memory to go on from; its sites, k and feature stay unless wished otherwise.
        coded: Prompts are routed by a router's codes.

    Raises:
        SiteError: There is no such site, several do not go together, or none was named and no layer
            stands out.
        InputError: A wish is out of range.

    Example:
        >>> settings = choose(base, Wishes(steps=40))
    """
    wishes = wishes or Wishes()
    if former:
        wishes = wishes.after(former)
    site = wishes.site
    if site is None:
        site = choose_site(base.net, base.config, coded=coded)
    paths = in_order(base.net, paths_of(site))
    D, _ = width(find_sites(base.net, paths)[0])
    return settle(base.config, ",".join(paths), D, wishes, coded=coded)
