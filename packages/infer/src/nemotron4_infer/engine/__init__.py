"""The engine: many requests at once on one model.

`core.py` is synchronous, without clock, thread or I/O; `loop.py` runs it in a thread. `build.py` makes an engine from a
model directory.
"""
