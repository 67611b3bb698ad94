"""Every promise of `docs/promises.md` under an injected fault, on one machine, with real processes.

`python -m tests.chaos` is the long form, whose figures stand in the document; `make test` runs the short one.
"""
