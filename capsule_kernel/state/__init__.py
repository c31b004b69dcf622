"""Saved state: what a namespace holds as records, how it comes back, and the store that keeps it.

`capture`, `restore`, `verify` and what they use run in workers; `store` and its parts in the front. They meet in
`manifest`, the vocabulary of both, and know nothing of links, channels and loops.
"""
