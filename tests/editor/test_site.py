"""The layers to edit, by their paths; those that are chosen are tried in test_families.py."""

import pytest

from memoir_edge.editor import BaseModel
from memoir_edge.editor.site import find_site, find_sites, in_order
from memoir_edge.errors import SiteError

SITE = "model.layers.1.mlp.down_proj"


def test_sites_of_a_memory_go_together(tiny: BaseModel) -> None:
    last = "model.layers.2.mlp.down_proj"
    assert in_order(tiny.net, [last, SITE, last]) == [SITE, last]
    assert len(find_sites(tiny.net, [SITE, last])) == 2
    for wrong in ([last, SITE], [SITE, SITE]):
        with pytest.raises(SiteError, match="each once, in the model's order") as caught:
            find_sites(tiny.net, wrong)
        assert "--site model.layers.1.mlp.down_proj" in str(caught.value.hint)
    with pytest.raises(SiteError, match=r"down_proj is 44 to 32, .*up_proj is 32 to 44"):
        find_sites(tiny.net, [SITE, "model.layers.2.mlp.up_proj"])


def test_the_head_is_no_site(tiny: BaseModel) -> None:
    with pytest.raises(SiteError, match="'lm_head' is the head") as caught:
        find_site(tiny.net, "lm_head")
    assert "lm_head" not in str(caught.value.hint)


def test_a_site_is_in_the_decoder(t5: BaseModel) -> None:
    with pytest.raises(SiteError, match="is not in the decoder"):
        find_site(t5.net, "encoder.block.1.layer.1.DenseReluDense.wo")
