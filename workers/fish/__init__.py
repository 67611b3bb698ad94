"""The `fish` worker: speech from text, by two transformers and a codec."""
