"""The pages that the server shows: files, no framework, nothing from elsewhere."""

from pathlib import Path

INDEX = Path(__file__).with_name("index.html")
DOCS = Path(__file__).with_name("docs.html")
