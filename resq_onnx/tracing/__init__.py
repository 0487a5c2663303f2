"""Where float graphs come from: traced in PyTorch, or read from a file that torch.onnx.export wrote."""
