"""Bytes, error and time of update codecs for twelve cascades of a small CNN, one thread.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/update_codecs.py

``tensors`` and ``message`` are the compression ratios of the tensors and of the whole message with its header, against
the float32 update. ``error`` is the error of the decoded update relative to the norm of the update, without error
feedback. ``ms`` is the time of encoding and decoding, ``/ pack`` its ratio to packing the float32 update.
"""

import math

import torch
from timing import paired_medians
from torch import Tensor

from federation.methods.codecs import Int8, LowRank, TopK
from federation.methods.scope import parameter_scope, parameters_of
from federation.methods.transform_chain import Chain
from federation.serialization.packing import layout, pack
from recon import ConvRegularizer, GradientStep, State, UnrolledNetwork

CHAINS = {
    "topk 10 %": Chain((TopK(0.1),)),
    "topk 1 %": Chain((TopK(),)),
    "int8": Chain((Int8(),)),
    "low rank 4": Chain((LowRank(4),)),
    "low rank 1": Chain((LowRank(1),)),
    "low rank 4, int8": Chain((LowRank(4), Int8())),
    "topk 10 %, int8": Chain((TopK(0.1), Int8())),
    "topk 1 %, int8": Chain((TopK(), Int8())),
}
#: Lowest allowed compression ratio of the tensors.
BARS = {"int8": 3.9, "topk 1 %": 75, "topk 1 %, int8": 180}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UnrolledNetwork(12, GradientStep, lambda: ConvRegularizer(12, 3))
    shared = parameters_of(network, parameter_scope(network).shared)
    for name, delta in {"gaussian": gaussian(shared), "heavy-tailed (Student, 3)": heavy_tailed(shared)}.items():
        print_codecs(f"{name}, {sum(t.numel() for t in shared.values())} numbers in {len(shared)} tensors", delta)


def gaussian(state: State) -> State:
    return {name: 1e-3 * torch.randn_like(tensor) for name, tensor in state.items()}


def heavy_tailed(state: State) -> State:
    student = torch.distributions.StudentT(3.0)
    return {name: 1e-3 * student.sample(tensor.shape) for name, tensor in state.items()}


def print_codecs(title: str, delta: State) -> None:
    generator, expected = torch.Generator().manual_seed(0), layout(delta)

    def there_and_back(chain: Chain) -> State:
        return chain.decode(chain.encode(delta, generator, {}), expected)

    candidates = {name: lambda chain=chain: there_and_back(chain) for name, chain in CHAINS.items()}
    medians = paired_medians({"pack": lambda: pack("update", {}, delta), **candidates}, repeats=15)
    print(f"{title}\n{'':18s} {'tensors':>8s} {'message':>8s} {'bar':>5s} {'error':>7s} {'ms':>7s} {'/ pack':>7s}")
    for name, chain in CHAINS.items():
        payload = chain.encode(delta, generator, {})
        tensors = n_bytes(delta) / n_bytes(payload)
        message = len(pack("update", {}, delta)) / len(pack("update", {}, payload))
        error = norm({key: tensor - delta[key] for key, tensor in there_and_back(chain).items()}) / norm(delta)
        bar, verdict = "", ""
        if name in BARS:
            bar, verdict = f"{BARS[name]:g}", "ok" if tensors >= BARS[name] else "MISSED"
        time = f"{1e3 * medians[name]:7.2f} {medians[name] / medians['pack']:7.1f}"
        print(f"{name:18s} {tensors:8.2f} {message:8.2f} {bar:>5s} {error:7.4f} {time} {verdict}".rstrip())
    print(f"{'pack':18s} {1:8.2f} {1:8.2f} {'':5s} {0:7.4f} {1e3 * medians['pack']:7.2f} {1:7.1f}\n")


def n_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def norm(state: State) -> float:
    squares: list[Tensor] = [tensor.double().square().sum() for tensor in state.values()]
    return math.sqrt(sum(map(float, squares)))


if __name__ == "__main__":
    main()
