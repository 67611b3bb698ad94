"""The doors: bytes become messages, and what happened becomes answers. They know no model."""
