"""What we say about what we made, and sending it: cards, staging by allow-list, scanning, upload, verification."""
