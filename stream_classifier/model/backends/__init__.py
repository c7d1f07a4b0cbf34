"""What runs a model: micro-batch to logits, one file a backend.

All of them pass one contract suite: the rows of an answer come in the order of the texts and do not depend on the texts
beside them. Nothing is imported here, so that asking for one backend does not load the libraries of the others.
"""
