"""Capsule: a Jupyter kernel for Python. Importing the package imports next to nothing: start-up time is a feature."""

from capsule_kernel.resuming import checkpoint

__all__ = ["checkpoint"]

__version__ = "0.1.0"
