"""The front: the process that front ends see. It owns the channels and never runs user code."""
