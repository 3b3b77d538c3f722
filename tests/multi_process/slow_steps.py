"""Imported by slow.gin: every training step takes time enough for a test to see it, and to act before the next."""

import time

from frozen_jax.metrics import MetricWriter

_step = MetricWriter.step


def _slow_step(self, *arguments, **settings):
    _step(self, *arguments, **settings)
    time.sleep(0.25)


MetricWriter.step = _slow_step
