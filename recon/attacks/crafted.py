"""Parameters that a malicious server would send so that the gradient of a site says more about its image."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Factor of the weights of convolutions, and the offset of the last bias, far above any pixel.
_GAIN, _OFFSET = 3.0, 5.0


def crafted_parameters(shared: Mapping[str, Tensor], order: Sequence[str]) -> dict[str, Tensor]:
    r"""The parameters of a broadcast with larger weights and a large offset of the output.

    The offset makes the image of the network brighter than every reference: the gradient of the loss l1 is then that
    of the mean of the image, without the signs of the errors, and smooth in the input. With larger weights the features
    depend on the input more.

    The bias of the output is the last one whose name ends with ``last.bias``, as in every regularizer of this package,
    else the last bias. Where no bias is shared there is no offset.

    A server can change values alone: every site builds the network from the approved recipe. The fully connected layers
    of Fowl et al. [F]_ and Boenisch et al. [B]_, whose gradient holds the input as it is, cannot be sent this way.

    Parameters
    ----------
    shared
        The parameters of a broadcast by name, in any order: checkpoints and messages sort them by name.
    order
        Names of all parameters in the order of the network, ``[name for name, _ in network.named_parameters()]``.

    Raises
    ------
    ValueError
        If a shared parameter is not in ``order``.

    References
    ----------
    .. [F] Fowl et al., Robbing the Fed: directly obtaining private data in federated learning with modified models,
       ICLR 2022.
    .. [B] Boenisch et al., When the curious abandon honesty: federated learning is not private, EuroS&P 2023.
    """
    if missing := sorted(shared.keys() - set(order)):
        raise ValueError(f"crafted_parameters: found {missing[0]}, expected parameters in the order of the network")
    crafted = {name: _GAIN * tensor if tensor.ndim > 1 else tensor.clone() for name, tensor in shared.items()}
    biases = [name for name in order if name in shared and shared[name].ndim == 1 and name.endswith("bias")]
    if outputs := [name for name in biases if name.endswith("last.bias")] or biases:
        last = crafted[outputs[-1]]
        crafted[outputs[-1]] = torch.cat([last[:1] + _OFFSET, last[1:]])
    return crafted
