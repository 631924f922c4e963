"""The rules of hubbub: pure, standard library only."""
