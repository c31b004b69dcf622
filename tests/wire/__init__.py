"""Tests of capsule_kernel.wire, module by module, each from its outside."""
