"""One module for each kind of source: `read(where, config)` with `where` what follows the colon of the URI."""
