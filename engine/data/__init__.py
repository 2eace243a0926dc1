"""Records from files and objects, formats, augmentation, checks."""
