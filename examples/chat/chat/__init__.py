"""A chat over two web processes and a worker: what a channel layer is for, in one small project."""
