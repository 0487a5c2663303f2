"""Sources of the float graph: a trace in PyTorch, or a file written by torch.onnx.export."""
