"""Gives a decoder's ONNX graph the ports that take a memory at run time.

    export(out=Path("onnx"), model=Path("model"))

One transformation a file: `_base_graph`, `_trace` and `_builder` (transformers to ONNX),
`_few_bits` (the weights), `_cache` (its sizes), `_site` (which MatMul), `_bodies` and `_settle`
(the two ops), `_ports` (the ops at the site), `_carry` (the route in the graph), `_router`, `_code`
and `_eight_bits` (an encoder beside the graph), `_write` and `_readme` (the directory), `_portable`
(what a browser lacks), `_triton`, `_genai` and `_hub` (other layouts).
docs/ports.md is the contract of what comes out.
"""

from memoir_edge_exporter._export import Exported, export
from memoir_edge_exporter._genai import PackagedGenai, package_genai
from memoir_edge_exporter._hub import package_optimum, package_web
from memoir_edge_exporter._ports import add_ports
from memoir_edge_exporter._router import export_router
from memoir_edge_exporter._site import Site, find_site
from memoir_edge_exporter._triton import Packaged, package_triton

__all__ = [
    "Exported",
    "Packaged",
    "PackagedGenai",
    "Site",
    "add_ports",
    "export",
    "export_router",
    "find_site",
    "package_genai",
    "package_optimum",
    "package_triton",
    "package_web",
]
__version__ = "0.1.0"
