"""Candidate answers of a textual recursive LM: sampled, grouped, shown, and chosen among without training."""
