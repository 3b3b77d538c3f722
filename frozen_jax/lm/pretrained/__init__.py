"""Pretrained weights: one file a kind of source, each giving a `Checkpoint`, and `load_lm`, the one door to all."""
