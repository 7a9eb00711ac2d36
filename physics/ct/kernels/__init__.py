"""Kernels compiled by numba for the CPU and by Triton for GPUs."""
