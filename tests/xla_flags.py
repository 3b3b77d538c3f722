"""Flags of XLA with which tests compile: they compile much and compute little."""

from importlib.metadata import version

# The optimizer takes a quarter of the time, MLIR's emitters of fusions and the division into modules half of the rest.
# Later versions than jaxlib 0.10 have no other emitters, and end at a flag that they do not know.
COMPILED_QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1" + (
    " --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
)
