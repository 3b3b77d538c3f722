"""The frozen language models, and nothing that trains."""
