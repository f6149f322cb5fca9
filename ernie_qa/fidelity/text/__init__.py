"""Reading the words in pictures: finding lines, what an engine reads in them, and how that scores."""
