"""Winning tickets: the ticket and its file, and the elastic transformation to other depths."""
