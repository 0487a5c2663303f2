"""ONNX graphs as data: names, tensors, nodes of a module, files. This file imports nothing."""
