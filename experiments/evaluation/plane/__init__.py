"""Models of points in the plane, beside the law that their data have: a picture and numbers."""
