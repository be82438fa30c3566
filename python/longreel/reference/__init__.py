"""The specification of every op in plain PyTorch: any floating dtype, differentiable, slow on purpose."""
