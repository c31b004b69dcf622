"""The process that runs user code, and the zygote that it is forked from. It knows no ZMQ, no Resonate, no store."""
