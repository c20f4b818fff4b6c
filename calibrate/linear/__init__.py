"""Linear models over features of many clips, fitted in few passes."""
