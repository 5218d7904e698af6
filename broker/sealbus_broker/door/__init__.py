"""The door: who may connect, decided in a process that messages cannot delay."""
