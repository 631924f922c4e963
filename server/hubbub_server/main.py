"""The composition root: the only file that names all layers."""
