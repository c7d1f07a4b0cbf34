"""`stream-classifier demo`: real news through a real broker, a worker and a model trained on this machine.

`news` gives the articles, `model` the trained model, `traffic` what is sent and read back, `view` what is seen, `show`
the whole. The worker is `stream-classifier run` itself, as a child process with a configuration of its own.
"""
