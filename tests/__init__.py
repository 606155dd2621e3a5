"""The tests; each of their processes computes on one thread, as several may run side by side."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
