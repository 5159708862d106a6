"""Where the numbers and pictures of a training go: JSON lines always, and whatever trackers a person names."""
