"""Pictures, and files that carry their provenance: contact sheets, previews of a training, points in the plane."""
