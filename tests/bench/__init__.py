"""The benchmark: Capsule beside its peers, in one interleaved run.

`uv run --group bench python -m tests.bench` measures everything (about eight minutes) and prints the table; `--quick`
gives a first impression, `--rows NAME…` measures figures or groups of them, `--kernels capsule,xeus` some kernels only,
`--json FILE` keeps the results. `rows/kishu.py` says how Kishu takes part. The figures and their bars are the table in
`figures.py`.

Read ratios: the kernels take turns in short blocks, so that whatever else the machine does meets all of them.
"""
