"""Still pictures: labelled sets of them, an image classifier, its training and its answers."""
