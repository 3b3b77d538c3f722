"""Passages, retrievers, re-ranking and packing: text in, text out."""
