"""Facts of architectures, and layers' paths in few words."""

import pytest

from memoir_edge.errors import SiteError
from memoir_edge.sites import (
    CODED,
    DEFAULT,
    HEADS,
    LAYERS,
    PAPER,
    default_site,
    folded,
    head_size,
    layers,
    listed,
    paths_of,
    preset,
)

LLAMA = {"model_type": "llama", "num_hidden_layers": 32, "intermediate_size": 14336}


@pytest.mark.parametrize("name", LAYERS)
def test_depth_has_several_names(name: str) -> None:
    assert layers({name: 24}) == 24
    assert layers({}) is None


@pytest.mark.parametrize("width", ["hidden_size", "n_embd", "d_model"])
@pytest.mark.parametrize("heads", HEADS)
def test_a_heads_width_follows_from_several_names(width: str, heads: str) -> None:
    assert head_size({width: 32, heads: 4, "head_dim": None}) == 8
    assert head_size({width: 32, heads: 4, "head_dim": 16}) == 16
    assert head_size({width: 32}) is head_size({heads: 4}) is head_size({}) is None


def test_the_papers_models_have_its_settings() -> None:
    assert preset(LLAMA) is PAPER["llama", 14336, 32]
    assert preset(LLAMA | {"num_hidden_layers": 31}) is DEFAULT
    # GPT-J states no width of its feed-forward block: it is four times the model's.
    gptj = {"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_inner": None}
    assert preset(gptj) is PAPER["gptj", 16384, 28]


def test_widths_that_differ_by_layer_are_those_of_no_paper() -> None:
    """As of Gemma 3n, or OpenELM."""
    assert preset(LLAMA | {"intermediate_size": [14336, 8192]}) is DEFAULT
    assert default_site(LLAMA | {"intermediate_size": [14336]}) == "model.layers.27.mlp.down_proj"
    assert layers({"num_hidden_layers": "many", "n_layer": 24}) == 24


def test_the_default_site() -> None:
    assert default_site(LLAMA) == "model.layers.27.mlp.down_proj"
    assert default_site({"model_type": "gpt2", "n_layer": 12}) == "transformer.h.10.mlp.c_proj"


def test_where_codes_route_the_site_is_the_last_blocks() -> None:
    assert preset(LLAMA, coded=True) is CODED
    assert default_site(LLAMA, coded=True) == "model.layers.31.mlp.down_proj"
    gpt2 = {"model_type": "gpt2", "n_layer": 12}
    assert default_site(gpt2, coded=True) == "transformer.h.11.mlp.c_proj"


@pytest.mark.parametrize("config", [{"model_type": "new", "n_layer": 2}, {"model_type": "llama"}])
def test_an_architecture_without_a_default_site(config: dict[str, object]) -> None:
    with pytest.raises(SiteError, match="no default site for model type") as caught:
        default_site(config)
    assert "--site" in str(caught.value.hint)


def test_paths_that_differ_in_their_numbers_are_one() -> None:
    mlp = [f"model.layers.{i}.mlp.down_proj" for i in (2, 0, 10)]
    experts = [f"h.{i}.experts.{j}" for i in (0, 1) for j in (0, 1, 2)]
    assert folded([*mlp, "lm_head", *experts]) == [
        "model.layers.{0..10}.mlp.down_proj", "lm_head", "h.{0..1}.experts.{0..2}",
    ]  # fmt: skip
    assert folded(["a.{}.0", "a.b²"]) == ["a.{}.0", "a.b²"]
    assert folded([]) == []


def test_a_long_list_is_cut() -> None:
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"
    assert listed(["a", "b"], most=2) == "a, b"
    assert listed([]) == ""


@pytest.mark.parametrize("site", ["", ",", "layers.5.mlp.down_proj,", " , layers.5"])
def test_a_path_that_is_empty_is_refused(site: str) -> None:
    with pytest.raises(SiteError, match="holds an empty path"):
        paths_of(site)
