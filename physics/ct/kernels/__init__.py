"""Compiled kernels; they import numba."""
