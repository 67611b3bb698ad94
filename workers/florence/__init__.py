"""The Florence worker: what is to be seen in pictures and films."""
