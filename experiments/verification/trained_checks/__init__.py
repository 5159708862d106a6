"""What a trained model is checked for, one function for each check."""
