"""Time of training steps, decoding and answering, against the frozen base and other libraries."""
