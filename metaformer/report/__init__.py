"""What a run tells people while it goes and when it is over."""
