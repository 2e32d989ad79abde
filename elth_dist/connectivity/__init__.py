"""How far trained networks lie apart: error along the line between two of them, distances and angles of weights."""
