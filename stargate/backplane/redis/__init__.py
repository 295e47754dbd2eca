"""The backplane over Redis or Valkey: the only room that knows redis-py."""
