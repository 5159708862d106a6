"""One module for each kind of source, with `read(where, config)`; `where` is what follows the colon of the URI."""
