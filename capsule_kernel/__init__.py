"""Capsule: a Jupyter kernel for Python. Importing the package imports nothing else: start-up time is a feature."""

__version__ = "0.1.0"
