"""`step`: what one sample costs, beside torch, onnxruntime and, on a CUDA device, the device's own limits."""
