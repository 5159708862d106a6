"""What is drawn and written: files with their provenance, grids, previews of a training, points in the plane."""
