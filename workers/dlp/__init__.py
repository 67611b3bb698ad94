"""The `dlp` worker: downloads, in a sandbox around its process."""
