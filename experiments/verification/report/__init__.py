"""The table of identities as a page: plots, HTML, and the page of equations."""
