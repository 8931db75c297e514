"""Inference: continuous batching over one key-value cache a model, in process or in a child process.

`herd.engine.client` and `herd.engine.frames` import no torch, so that a server can hold an engine without it.
"""
