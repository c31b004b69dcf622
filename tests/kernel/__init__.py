"""Whole-kernel tests: a real process, real sockets, seen from the outside by a strict client."""
