"""Tests of capsule_kernel.worker, module by module, each from its outside."""
