"""What a run becomes for others: a sampler as one file, weights alone, a folder of diffusers."""
