"""Parameters that a malicious server would send so that the gradient of a site says more about its image."""

from collections.abc import Mapping

import torch
from torch import Tensor

#: Factor of the weights of convolutions, and the offset of the last bias, far above any pixel.
_GAIN, _OFFSET = 3.0, 5.0


def crafted_parameters(shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""The initial parameters with larger weights and a large offset of the last output.

    The offset makes the image of the network brighter than every reference: the gradient of the loss l1 is then that
    of the mean of the image, without the signs of the errors, and smooth in the input. With larger weights the features
    depend on the input more.

    A server can change values alone: every site builds the network from the approved recipe. The fully connected layers
    of Fowl et al. [F]_ and Boenisch et al. [B]_, whose gradient holds the input as it is, cannot be sent this way.

    Parameters
    ----------
    shared
        The parameters of a broadcast by name, in the order of the network.

    References
    ----------
    .. [F] Fowl et al., Robbing the Fed: directly obtaining private data in federated learning with modified models,
       ICLR 2022.
    .. [B] Boenisch et al., When the curious abandon honesty: federated learning is not private, EuroS&P 2023.
    """
    crafted = {name: _GAIN * tensor if tensor.ndim > 1 else tensor.clone() for name, tensor in shared.items()}
    biases = [name for name, tensor in shared.items() if tensor.ndim == 1 and name.endswith("bias")]
    if biases:
        last = crafted[biases[-1]]
        crafted[biases[-1]] = torch.cat([last[:1] + _OFFSET, last[1:]])
    return crafted
