"""Where other people's training loops need a hand.

Each file needs the package it is named after (`lightning`, `huggingface`); `averaging` needs torch alone.
"""
