"""Durable promises by the Resonate protocol: the only folder that knows it.

`names` are the ids, `client.Promises` what can be done (start there). `EmbeddedPromises` does it in a file of this
user, without importing Resonate's SDK. The rules are pure (`rules`), the file is `store`.
"""
