"""Jobs: the pieces of work of a method, each from options and inputs to a result folder."""
