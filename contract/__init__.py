"""What all sides say to each other: messages, errors, parameters, results. Imports nothing of ours."""
