"""Pure rules of conversations, members and messages: decide and evolve, standard library only."""
