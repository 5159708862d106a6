"""Networks that others have trained, as spaces of features: their arrays come from a file, their form from here."""
