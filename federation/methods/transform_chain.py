"""Chains of transforms, which encode a site's update and decode it at the receiver; error feedback."""

import itertools
from dataclasses import dataclass

import torch

from ..serialization import Layout, State, check_finite, layout
from .transform import Transform, check_tensors, n_entries


@dataclass(frozen=True)
class Chain:
    """Transforms in sequence; without any, the update travels unchanged.

    Dense transforms come first, then at most one of ``topk`` and ``low_rank``, then at most ``int8``.
    """

    transforms: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        for first, second in itertools.pairwise(self.transforms):
            if second.stage < first.stage or 0 < second.stage == first.stage:
                raise ValueError(
                    f"Chain: {type(second).__name__} cannot follow {type(first).__name__}; expected clip and "
                    "null_space first, then one of topk and low_rank, then int8"
                )

    @property
    def dense(self) -> "Chain":
        """The dense transforms, from update to update."""
        return Chain(tuple(transform for transform in self.transforms if transform.stage == 0))

    @property
    def codecs(self) -> "Chain":
        """The transforms that shorten the update."""
        return Chain(tuple(transform for transform in self.transforms if transform.stage > 0))

    def encode(self, delta: State, generator: torch.Generator, context: State) -> State:
        """The payload of an update.

        Raises
        ------
        ValueError
            If the update has no entry, is not finite, or does not suit a transform.
        """
        if not n_entries(layout(delta)):
            raise ValueError("Chain: the update holds no entry, expected at least one")
        check_finite(delta, "update")
        payload = delta
        for transform in self.transforms:
            payload = transform.encode(payload, generator, context)
        return payload

    def decode(self, payload: State, layout: Layout) -> State:
        """Check a payload and decode it to an update of ``layout``.

        Raises
        ------
        MessageError
            If it is not the payload of such an update, or decodes to numbers that are not finite.
        """
        layouts = [layout]
        for transform in self.transforms:
            layouts.append(transform.payload_layout(layouts[-1]))
        for transform, before in zip(reversed(self.transforms), reversed(layouts[:-1]), strict=True):
            transform.check_payload(payload, before)
            payload = transform.decode(payload, before)
        # The product of finite factors may overflow, and integer tensors pass a quantizer unchecked.
        check_tensors(payload, layout, "update")
        return payload

    def check_payload(self, payload: State, layout: Layout) -> None:
        """Refuse a payload that :meth:`decode` refuses."""
        self.decode(payload, layout)


def encode_with_feedback(
    chain: Chain, delta: State, residual: State, generator: torch.Generator, context: State
) -> tuple[State, State]:
    r"""Encode an update plus the residual that the codecs lost of earlier updates.

    With the dense transforms :math:`T`, the codecs :math:`D` and the residual :math:`e_0 = 0`,

    .. math:: u_t = T(d_t + e_t), \quad e_{t+1} = u_t - D(u_t).

    Without dense transforms, the sum of all decoded updates is the sum of the updates minus the last residual. A part
    that a dense transform removes is not sent later: it is removed on purpose. Dense transforms act on the sum
    :math:`d_t + e_t`, so that the norm, or the null space of the present prompt, is right for the encoded update.

    Parameters
    ----------
    residual
        Residual of the last call at this site, float64; empty at first.

    Returns
    -------
        The payload and the new residual.

    Raises
    ------
    ValueError
        If the residual has other tensors than the update, and as for :meth:`Chain.encode`.

    References
    ----------
    .. [S] Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014.
    .. [EF] Karimireddy et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes, ICML 2019,
       Algorithm 2.
    """
    if residual:
        expected = {name: (tuple(tensor.shape), torch.float64) for name, tensor in delta.items()}
        check_tensors(residual, expected, "residual")
    total = {name: tensor.to(torch.float64) + residual.get(name, 0) for name, tensor in delta.items()}
    meant = chain.dense.encode(total, generator, context)
    payload = chain.codecs.encode({name: meant[name].to(delta[name].dtype) for name in delta}, generator, context)
    decoded = chain.decode(payload, layout(delta))
    return payload, {name: meant[name] - decoded[name].to(torch.float64) for name in delta}
