"""Tests of capsule_kernel.front, module by module, each from its outside."""
