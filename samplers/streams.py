"""The table of the samplers' random streams: what the key of a sample is folded with.

Sample i is a function of (key, i) alone: its key is `key` folded with i, and what is drawn on its way that folded once
more. The draw from the prior has the number 0 and step n the number n + 1, so all others are large. What a wrapper
draws must not be what the sampler inside it draws from the same keys, so each has numbers of its own. None may change:
seeds would give other samples.
"""

from __future__ import annotations

PRIOR = 0
"""x_T; step n, counted from 0, has PRIOR + 1 + n."""
OBSERVATION, JUMP, RENOISE = 1_000_003, 1_000_033, 1_000_037
"""Of inpainting: the noise of the known part, the steps down again, the way back up."""
CORRECTOR = 1_000_081
"""Of the corrector, whose predictor has the step's own."""
PATH = 1_000_099
"""A sample's Brownian path."""
UP, DOWN = 1_000_117, 1_000_121
"""Of a restart: the noise that is added, with 16 numbers for each interval, and the steps down again."""
