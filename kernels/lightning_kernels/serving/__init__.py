"""What engines that serve models call: batches of prompts and decoding tokens against a pool of states."""
