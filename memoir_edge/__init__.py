"""memoir-edge: edit facts offline, ship one memory file, swap it into a served ONNX model.

This package is light: importing it pulls in numpy and safetensors, never torch.
"""

__version__ = "0.1.0"
