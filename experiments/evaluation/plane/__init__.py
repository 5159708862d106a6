"""Models of points in the plane, measured against the law of their data."""
