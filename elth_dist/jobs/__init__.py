"""The pieces of work that a method is made of, each from options and inputs to a folder."""
