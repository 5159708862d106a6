"""How good a trained model is: distances of its samples from held-out data, likelihoods, scores of anomalies."""
