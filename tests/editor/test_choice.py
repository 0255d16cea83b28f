"""Which layer, feature and k route best: what is compared, and what it is told by."""

from dataclasses import replace

import pytest

from memoir_edge.editor import BaseModel, sites_near
from memoir_edge.errors import SiteError

SITE = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "n_layers"])
def test_the_upper_half_of_a_model_is_near_whatever_names_its_depth(
    tiny: BaseModel, name: str
) -> None:
    base = replace(tiny, config={name: 3})
    assert sites_near(base, SITE, None) == [SITE, "model.layers.2.mlp.down_proj"]


def test_named_layers_must_be_there(tiny: BaseModel) -> None:
    assert sites_near(tiny, SITE, [2, 0]) == [
        "model.layers.2.mlp.down_proj", "model.layers.0.mlp.down_proj",
    ]  # fmt: skip
    with pytest.raises(SiteError, match="names nothing"):
        sites_near(tiny, SITE, [9])
