"""What a user types and reads: options by their dotted names, values as text, help, and answers to mistakes."""
