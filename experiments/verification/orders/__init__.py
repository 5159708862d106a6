"""The order of every sampler, measured: on flows that are known, on moments that are exact, along Brownian paths."""
