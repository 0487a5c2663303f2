"""ONNX graphs as data: names, tensors, nodes of a module, files. Imports nothing by itself."""
