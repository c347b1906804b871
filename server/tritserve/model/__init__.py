"""Model files: checkpoint readers, conversion to the packed file, the packed file itself."""
