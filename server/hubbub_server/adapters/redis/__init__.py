"""What is kept in Redis or Valkey: facts of the moment, which nodes write again when they are lost. Never an order."""
