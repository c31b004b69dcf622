"""Tests of capsule_kernel.sessions, module by module, each from its outside."""
