"""Cases that several processes of one host share, each a rank with a device of its own."""
