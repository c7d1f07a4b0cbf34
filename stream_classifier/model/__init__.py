"""What a model is and how it answers: text to tokens to logits to probabilities to a decision.

Knows nothing of Kafka, Faust, asyncio or metrics; the stream, the command line and training all answer through it.
"""
