"""`python -m herd.engine.kernels` says which kernels this machine runs."""

from herd.engine.kernels import describe

print(describe())
