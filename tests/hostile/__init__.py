"""Guests that misbehave: whatever a cell does to its process, the kernel answers and the next cell runs."""
