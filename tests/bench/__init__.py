"""The benchmark: Capsule beside its peers, in one interleaved run (`python -m tests.bench`)."""
