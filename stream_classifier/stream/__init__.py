"""How records move: read in batches, classified in micro-batches, delivered in order, committed behind a watermark.

Knows nothing of torch. `pipeline.py` is the flow, readable top to bottom; everything it calls is a leaf.
"""
