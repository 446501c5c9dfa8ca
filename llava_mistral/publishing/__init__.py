"""Publishing: cards, staging by allow-list, secret scanning, upload and verification."""
