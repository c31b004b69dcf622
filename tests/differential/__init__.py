"""The same notebook on ipykernel and on Capsule: the outputs of every cell have to be equal.

`python -m tests.differential [NOTEBOOK …]` compares notebooks of your own.
"""

from pathlib import Path

NOTEBOOKS = Path(__file__).with_name("notebooks")
"""What is compared."""
