"""What all operators use: validation, allocation, launches."""
