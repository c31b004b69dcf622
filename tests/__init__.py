"""Tests of Capsule; the folders mirror the package, `kernel/` and `hostile/` test the whole kernel."""
