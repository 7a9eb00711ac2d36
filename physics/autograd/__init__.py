"""Functions with derivatives of any order, for autograd and for `torch.func`."""
