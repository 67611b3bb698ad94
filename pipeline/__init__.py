"""The brain: plans, jobs and their order. Imports no model library and no web framework."""
