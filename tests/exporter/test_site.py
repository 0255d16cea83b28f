"""Finding the edited layer."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from memoir_edge.errors import SiteError
from memoir_edge_exporter import find_site

Build = Callable[..., onnx.ModelProto]
SITE = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(
    "product",
    ["MatMul", "Gemm", "transposed", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul"],
)
@pytest.mark.parametrize("path", [SITE, "layers.0.mlp.down_proj", "down_proj"])
def test_every_kind_of_product_is_found(three_nodes: Build, product: str, path: str) -> None:
    site = find_site(three_nodes(product=product, D=32, d=5).graph, path)
    assert (site.path, site.D, site.d) == (SITE, 32, 5)
    assert site.node.name.startswith("/model/layers.0/mlp/down_proj/")


def test_around_a_product_of_integers_the_site_reads_and_gives_floats(three_nodes: Build) -> None:
    site = find_site(three_nodes(product="MatMulInteger").graph, SITE)
    assert (site.a, site.W0_a) == ("a", "W0_a")
    assert site.node.op_type == "MatMulInteger"


def test_real_graphs(llama, gpt2) -> None:
    found = find_site(onnx.load(llama.base / "model.onnx").graph, "model.layers.1.mlp.down_proj")
    assert (found.node.op_type, found.D, found.d) == ("MatMul", 50, 32)
    found = find_site(onnx.load(gpt2.base / "model.onnx").graph, "transformer.h.0.mlp.c_proj")
    assert (found.node.op_type, found.D, found.d) == ("Gemm", 52, 32)


@pytest.mark.parametrize("path", ["model.layers.9.mlp.down_proj", "own_proj", "", "MatMul"])
def test_a_missing_site_lists_the_layers_there_are(llama, path: str) -> None:
    with pytest.raises(SiteError, match="no matrix product of site") as caught:
        find_site(onnx.load(llama.base / "model.onnx").graph, path)
    assert "model.layers.{0..2}.mlp.down_proj, lm_head" in str(caught.value.hint)


def test_an_ambiguous_site_lists_its_matches(llama, three_nodes: Build) -> None:
    with pytest.raises(SiteError, match="3 matrix products") as caught:
        find_site(onnx.load(llama.base / "model.onnx").graph, "mlp.down_proj")
    assert "/model/layers.1/mlp/down_proj/MatMul" in str(caught.value.hint)
    twice = three_nodes()
    twice.graph.node.append(twice.graph.node[1])
    twice.graph.node[-1].name += "_1"
    with pytest.raises(SiteError, match="2 matrix products"):
        find_site(twice.graph, SITE)


def test_a_whole_path_wins_over_a_longer_one(three_nodes: Build) -> None:
    model = three_nodes()
    model.graph.node.append(model.graph.node[1])
    model.graph.node[-1].name = f"/draft{model.graph.node[1].name}"
    assert find_site(model.graph, SITE).node == model.graph.node[1]


def test_a_product_of_two_activations_is_no_layer(three_nodes: Build) -> None:
    model = three_nodes()
    del model.graph.initializer[:]
    with pytest.raises(SiteError) as caught:
        find_site(model.graph, SITE)
    assert caught.value.hint == "it has: no named product with a weight at all"


def test_a_long_list_is_cut(three_nodes: Build) -> None:
    model = three_nodes()
    for letter in map(chr, np.arange(26) + ord("a")):
        model.graph.node.append(model.graph.node[1])
        model.graph.node[-1].name = f"/odd_{letter}/MatMul"
    with pytest.raises(SiteError) as caught:
        find_site(model.graph, "x")
    assert str(caught.value.hint).endswith("odd_r and 8 more")
