"""Speed and accuracy of CartesianMRI with 8 coils on one thread, against a plain FFT and the naive composition.

    OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 \
        python benchmarks/cartesian_mri.py
"""

import torch
from timing import paired_medians, print_ratios
from torch import Tensor

from physics import OPERATORS, CartesianMRI, check_operator, fft2c, ifft2c


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for height, width in ((320, 320), (640, 372)):
            maps = torch.randn(8, height, width, dtype=torch.complex64, generator=generator)
            x = torch.randn(height, width, dtype=torch.complex64, generator=generator)
            y = torch.randn(8, height, width, dtype=torch.complex64, generator=generator)
            mask = torch.rand(width, generator=generator) < 0.25
            time_operator(maps, mask, x, y)
        print("adjoint error on white noise (largest of all operators and shapes)")
        print_adjoint_errors(generator)


def time_operator(maps: Tensor, mask: Tensor, x: Tensor, y: Tensor) -> None:
    A = CartesianMRI(maps, mask)

    def naive_gram() -> Tensor:
        return (maps.conj() * ifft2c(fft2c(maps * x) * mask)).sum(-3)

    gram = A.gram
    difference = float((gram(x) - naive_gram()).norm() / naive_gram().norm())
    title = f"CartesianMRI, 8 coils, {maps.shape[-2]}x{maps.shape[-1]}"
    candidates = {
        "raw fft2": lambda: torch.fft.fft2(y),
        "forward": lambda: A(x),
        "adjoint": lambda: A.adjoint(y),
    }
    bars = {"forward": 2.2, "adjoint": 3.2, "gram, column mask": 0.4} if maps.shape[-2:] == (320, 320) else {}
    print_ratios(title, paired_medians(candidates), "raw fft2", bars)
    medians = paired_medians({"naive centered": naive_gram, "gram, column mask": lambda: gram(x)})
    print_ratios(f"Gram, relative difference {difference:.1e}", medians, "naive centered", bars)


def print_adjoint_errors(generator: torch.Generator) -> None:
    double = [check_operator(operator.example(generator))["adjoint"] for operator in OPERATORS.values()]
    single = []
    for shape in ((320, 320), (321, 318), (322, 320), (97, 128)):
        for dtype, errors in ((torch.complex128, double), (torch.complex64, single)):
            maps = torch.randn(4, *shape, dtype=dtype, generator=generator)
            errors.append(check_operator(CartesianMRI(maps, torch.rand(shape, generator=generator) < 0.3))["adjoint"])
    print(f"float64 {max(double):.1e} (bar 1e-12)   float32 {max(single):.1e} (bar 1e-6)")


if __name__ == "__main__":
    main()
