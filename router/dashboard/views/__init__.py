"""What each page shows: the frame, which stays as it is, and the screen, which is kept fresh."""
