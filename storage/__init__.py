"""What lasts: the ledger, files, blobs, recordings, voices, and how long each is kept."""
