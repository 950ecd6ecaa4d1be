"""The version of ONNX's operators that graphs are written with, by default."""

OPSET = 18
"""The oldest that PyTorch's exporter writes; the older the opset, the older the runtimes that read it."""
