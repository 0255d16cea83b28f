"""What is chosen where the user does not say, and what is refused."""

import pytest

from memoir_edge.editor import BaseModel, Wishes, choose
from memoir_edge.errors import InputError

SITE = "model.layers.1.mlp.down_proj"


def test_parity_is_the_papers_alone(tiny: BaseModel) -> None:
    chosen = choose(tiny, Wishes(site=SITE, parity=True))
    assert (chosen.prefixes, chosen.thinned, chosen.spare, chosen.repairs) == (10, 0, 0, 0)
    assert not chosen.eos
    for name, value in (("thinned", 1), ("spare", 1.0), ("batch_edits", 2)):
        with pytest.raises(InputError, match="parity with the released code"):
            choose(tiny, Wishes(site=SITE, parity=True, **{name: value}))  # type: ignore[arg-type]
