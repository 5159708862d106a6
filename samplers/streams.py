"""The samplers' random streams: the numbers that the key of a sample is folded with.

Sample i is a function of (key, i) alone: its own key is `key` folded with i, and each of its draws has that key folded
with a number once more. The draw from the prior has the number 0 and step n has n + 1, so all others are large. A
wrapper must not repeat the draws of the sampler inside, which has the same keys, so it has numbers of its own. None of
them may change, or seeds would give other samples.
"""

from __future__ import annotations

PRIOR = 0
"""The number of x_T; step n, counted from 0, has PRIOR + 1 + n."""
OBSERVATION, JUMP, RENOISE = 1_000_003, 1_000_033, 1_000_037
"""The numbers of inpainting: for the noise of the known part, for the steps down again, and for the way back up."""
CORRECTOR = 1_000_081
"""The number of the corrector; the predictor has that of the step."""
PATH = 1_000_099
"""The number of a sample's Brownian path."""
UP, DOWN = 1_000_117, 1_000_121
"""The numbers of a restart: for the noise that is added, with 16 for each interval, and for the steps down again."""
