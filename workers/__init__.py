"""The hands: a file, or a folder with a `worker.py`, for each model. `base` is what a worker is; `runtime` runs it."""
