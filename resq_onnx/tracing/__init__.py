"""Where float graphs come from: traced in PyTorch, or read from a file of torch.onnx.export."""
