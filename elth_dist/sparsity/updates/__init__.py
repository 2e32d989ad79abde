"""How masks change while a network trains: one protocol, and a file for each way of doing it."""
