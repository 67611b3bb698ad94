"""The Whisper worker: what is said, and when."""
