"""Finding problems of the images of a data set."""
