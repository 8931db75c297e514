"""Models and targets that come with the package: plain read-only files."""
