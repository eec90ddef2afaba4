"""Work on the part of an image that has changed: exact, and cheaper than a whole pass where that part is small."""
