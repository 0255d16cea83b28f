"""What a user wishes, and the settings that follow."""

from dataclasses import fields
from typing import Any

import pytest

from memoir_edge.errors import InputError
from memoir_edge.settings import PARITY, Settings, Wishes, settle
from memoir_edge.sites import CODED, DEFAULT

LLAMA = {"model_type": "llama", "intermediate_size": 768, "num_hidden_layers": 8}
SITE = "model.layers.6.mlp.down_proj"


def settled(**wishes: object) -> Settings:
    return settle(LLAMA, SITE, 768, Wishes(**wishes))  # type: ignore[arg-type]


def test_what_is_left_open_is_the_presets() -> None:
    found = settled()
    assert (found.site, found.k, found.feature) == (SITE, round(768 * 2 / 7), "last")
    assert (found.threshold, found.steps) == (DEFAULT.threshold["last"], DEFAULT.steps)
    assert (found.lr, found.passes, found.false_fires) == (DEFAULT.lr, 2, 0.01)


@pytest.mark.parametrize("name", ["steps", "k", "passes", "batch_edits", "threshold"])
def test_a_wish_of_nothing_is_refused_and_not_taken_for_none(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0"):
        settled(**{name: 0})


@pytest.mark.parametrize("name", ["prefixes", "thinned", "spare", "repairs", "made_keys"])
def test_a_wish_of_none_at_all_is_heeded(name: str) -> None:
    assert getattr(settled(**{name: 0}), name) == 0


def test_every_wish_is_a_setting() -> None:
    assert {f.name for f in fields(Wishes)} <= {f.name for f in fields(Settings)}


def test_one_threshold_for_all_leaves_keys_none_of_their_own() -> None:
    assert settled(threshold=0.7).false_fires == 0
    assert settled(threshold=0.7, false_fires=0.02).false_fires == 0.02


def test_the_threshold_follows_the_feature() -> None:
    assert settled(feature="mean").threshold == DEFAULT.threshold["mean"]
    assert settled(feature="last-two").threshold == 0.65
    with pytest.raises(InputError, match="unknown feature ''"):
        settled(feature="")


def test_where_codes_route_edits_are_trained_in_other_forms() -> None:
    found = settle(LLAMA, SITE, 768, Wishes(), coded=True)
    assert (found.optimiser, found.lr, found.forms) == ("adam", CODED.lr, CODED.forms)
    assert (settled().optimiser, settled().forms) == ("sgd", 0)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(InputError, match="unknown optimiser 'lion'; known: sgd, adam"):
        Settings(site=SITE, k=1, feature="last", threshold=0.5, steps=1, optimiser="lion")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", (0, -0.1)),
        ("clip", (0, -1)),
        ("dropout", (1, -0.1)),
        ("momentum", (1, -0.1)),
        ("stop_loss", (-0.1, float("inf"))),
    ],
)
def test_numbers_with_which_nothing_would_be_learned_are_refused(
    name: str, values: tuple[float, ...]
) -> None:
    for value in (*values, float("nan")):
        with pytest.raises(InputError, match=f"{name} is {value}, expected"):
            Settings(site=SITE, k=1, feature="last", threshold=0.5, steps=1, **{name: value})  # type: ignore[arg-type]
    whole = Settings(site=SITE, k=1, feature="last", threshold=0.5, steps=1, clip=float("inf"))
    assert whole.dropout == 0.5


@pytest.mark.parametrize("changed", [{"forms": 1}, {"optimiser": "adam"}, {"batch_edits": 2}])
def test_parity_is_refused_beside_what_the_paper_lacks(changed: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="parity with the released code is plain descent"):
        Settings(site=SITE, k=1, feature="last", threshold=0.5, steps=1, parity=True, eos=False,
                 **changed)  # fmt: skip


def test_parity_is_the_papers_but_for_what_is_wished() -> None:
    found = settled(parity=True, passes=3)
    assert found.passes == 3
    assert {n: getattr(found, n) for n in PARITY if n != "passes"} == {
        n: v for n, v in PARITY.items() if n != "passes"
    }


def test_several_sites_are_trained_by_adam() -> None:
    two = f"model.layers.5.mlp.down_proj, {SITE}"
    found = settle(LLAMA, two, 768, Wishes(site=two, steps=7))
    assert found.sites == ("model.layers.5.mlp.down_proj", SITE)
    assert (found.optimiser, found.lr, found.stop_loss) == ("adam", CODED.lr, CODED.stop_loss)
    assert (found.steps, found.forms, found.k) == (7, 0, settled().k)
    with pytest.raises(InputError, match="several sites are trained by adam alone, not sgd"):
        settle(LLAMA, two, 768, Wishes(parity=True))
