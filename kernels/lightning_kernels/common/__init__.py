"""What operators share: calls as values, checks, allocation, autograd, launches."""
