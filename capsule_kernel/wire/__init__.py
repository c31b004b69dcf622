"""Both protocols as bytes and messages: Jupyter's (front end to front) and the link's (front to worker).

Nothing here waits, reads a clock or owns a descriptor: callers feed bytes and send what they are given.
"""
