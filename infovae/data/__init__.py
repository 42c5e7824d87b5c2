"""Images: where their bytes come from, how files are read, and the tensors that training sees."""
