"""What several commands use: options, output, progress, device."""
