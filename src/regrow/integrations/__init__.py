"""Where other people's training loops need a hand.

`lightning` and `huggingface` need the packages that they are named after; the others need torch alone.
"""
